//! Export through the program, against the registry double: planning, fetching, resuming, pipes, and every way in which
//! a source or an output can fail, independent of the speed of the machine.

mod changed_list;
mod cut_short;
mod faults;
mod lost;
mod nested;
mod output;
mod pipe;
mod plain_gaps;
mod power;
mod quota;
mod ranges;
mod replaced;
mod resume;
mod reuse;
mod sizes;
mod speed;
mod system_calls;
mod tools;
mod whole;
