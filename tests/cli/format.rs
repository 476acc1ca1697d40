//! docs/bundle-format.md: a reader that was written from that page alone reads an exported bundle, and finds that every
//! rule is kept.

use super::cli;
use super::support::image::Style;
use super::support::real::optional_program;
use super::support::{Double, images};

#[test]
fn a_reader_by_the_book_finds_every_rule_kept() {
    let Some(python) = optional_program(
        "python3",
        "the reader that was written from docs/bundle-format.md alone",
    ) else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    images::greeting().push(&source, "library/greeting", "1.0");
    images::helm_chart().push(&source, "charts/demo", "0.1.0");
    images::nested().push(&source, "library/nested", "1");
    images::linux_and_windows(Style::Docker).push(&source, "library/docker", "1");
    let names = [
        "library/nested:1",
        "library/greeting:1.0",
        "charts/demo:0.1.0",
        "library/docker:1",
    ];
    let names = names.map(|name| format!("{}/{name}", source.host()));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/format_reader.py");
    let read = |bundle: &str| {
        let output = std::process::Command::new(&python)
            .args([reader, bundle])
            .current_dir(cli.folder())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    for (count, flags) in [
        (4, &[][..]),
        (4, &["--platform", "all"]),
        (2, &["--platform", "linux/arm64", "--index", "sparse"]),
        (4, &["--no-docker-manifest"]),
    ] {
        let images = if count == 4 { &names[..] } else { &names[..2] };
        cli.succeed(&[&["export", "--force", "-o", "b.tar"][..], flags, images].concat());
        let (good, said) = read("b.tar");
        assert!(good && said.contains(&format!("{count} images")), "{flags:?}: {said}");
    }
    // Shows that the reader can find a fault: the content of the last blob is changed.
    let mut bytes = std::fs::read(cli.path("b.tar")).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(cli.path("b.tar"), bytes).unwrap();
    assert!(!read("b.tar").0);
}
