//! The command line: turns flags into a request, calls the library and reports the result. Only this module prints, draws
//! progress bars and reads the environment.

mod bundles;
mod command_line;
mod connection;
mod diff;
mod distinct_files;
mod environment;
mod estimate;
mod exit;
mod export;
mod export_output;
mod export_report;
mod failures;
mod generate;
mod images;
mod import;
mod input_file;
mod inspect;
mod limits;
mod login;
mod memory;
mod mirror;
mod output;
mod output_file;
mod parse;
mod plugin;
mod printer;
mod process;
mod progress;
mod push;
mod referrer_flags;
mod report;
mod run;
mod status;
mod temp_file;
mod terminal;
mod usage;
mod values;
mod verify;
mod wording;
mod wrong_flags;

pub(crate) use run::main;
