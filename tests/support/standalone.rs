//! The registry double as a program, for demonstrations and manual tests.
//!
//! `registry-double [--load greeting=REPOSITORY:TAG] [--store FOLDER] [--listen ADDRESS]` prints `HOST:PORT` on one line,
//! and serves until the process is ended. With `--until-stdin-closes`, the program ends when its standard input closes.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit)]

#[path = "mod.rs"]
mod support;

use std::io::{Read, Write};

use support::{Double, Options};

const USAGE: &str = "\
registry-double: a registry for tests and demonstrations, on 127.0.0.1

  --load NAME=REPOSITORY[:TAG]  holds a ready-made image (greeting, helm, nested, windows, docker); repeatable
  --store FOLDER                keeps what it holds in a folder; in memory otherwise
  --listen ADDRESS              instead of 127.0.0.1:0, a free port
  --until-stdin-closes          ends when its standard input does
";

fn main() {
    let mut options = Options::default();
    let mut load = Vec::new();
    let mut address = "127.0.0.1:0".to_owned();
    let mut until_stdin_closes = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| fail(&format!("`{argument}` needs a value")))
        };
        match argument.as_str() {
            "--load" => load.push(value()),
            "--store" => options.folder = Some(value().into()),
            "--listen" => address = value(),
            "--until-stdin-closes" => until_stdin_closes = true,
            "--help" | "-h" => return print!("{USAGE}"),
            _ => fail(&format!("unknown argument `{argument}`")),
        }
    }
    let registry = Double::start_on(&address, options);
    for item in load {
        let Some((name, place)) = item.split_once('=') else {
            fail(&format!("`--load {item}`: write NAME=REPOSITORY[:TAG]"));
        };
        let (repository, tag) = place.split_once(':').unwrap_or((place, "latest"));
        let image = match name {
            "greeting" => support::images::greeting(),
            "helm" => support::images::helm_chart(),
            "nested" => support::images::nested(),
            "windows" => support::images::windows_only(),
            "docker" => support::images::linux_and_windows(support::image::Style::Docker),
            _ => fail(&format!("there is no image `{name}`")),
        };
        image.push(&registry, repository, tag);
    }
    println!("{}", registry.host());
    std::io::stdout().flush().expect("cannot write to standard output");
    if until_stdin_closes {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    } else {
        loop {
            std::thread::park();
        }
    }
}

fn fail(why: &str) -> ! {
    eprintln!("registry-double: {why}\n\n{USAGE}");
    std::process::exit(2);
}
