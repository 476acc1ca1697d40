//! Files from a disk with bad sectors, which have zeros in the place of what could not be read.

use std::fs;

use super::cli;
use super::support::images::shared_base;
use super::support::layout::Tar;
use super::support::{Cli, Double};

const SECTOR: u64 = 4096;

fn exported() -> (Cli, Double, Vec<u8>) {
    let (cli, registry) = (cli(), Double::new());
    let mut command = vec!["export".to_owned()];
    for (number, image) in shared_base(3, 60_000).iter().enumerate() {
        let repository = format!("team/app{number}");
        image.push(&registry, &repository, "1");
        command.push(format!("{}/{repository}:1", registry.host()));
    }
    command.extend(["-o", "b.tar", "--no-cache"].map(str::to_owned));
    cli.succeed(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let bytes = fs::read(cli.path("b.tar")).unwrap();
    (cli, registry, bytes)
}

#[test]
fn zeros_in_the_place_of_a_header_cost_the_blobs_that_they_touch() {
    let (cli, _registry, bytes) = exported();
    let bundle = Tar::open(&cli.path("b.tar"));
    let blobs: Vec<_> = bundle
        .members
        .iter()
        .filter(|member| member.name.starts_with("blobs/"))
        .collect();
    // The first blobs are small, so that several are in one sector; the last ones are layers.
    for blob in [blobs[1], blobs[blobs.len() / 2], blobs[blobs.len() - 1]] {
        let start = (blob.offset - 512) / SECTOR * SECTOR;
        let zeros = start..(start + SECTOR).min(bytes.len() as u64);
        let touched = blobs
            .iter()
            .filter(|blob| blob.offset - 512 < zeros.end && zeros.start < blob.offset + blob.size)
            .count();
        let mut copy = bytes.clone();
        copy[zeros.start as usize..zeros.end as usize].fill(0);
        fs::write(cli.path("z.tar"), copy).unwrap();
        let found = cli.run(&["verify", "z.tar", "--want", "w.txt"]).expect_code(5);
        let wanted = fs::read_to_string(cli.path("w.txt")).unwrap();
        let wanted = wanted.lines().filter(|line| line.starts_with("sha256:")).count();
        assert!(
            (1..=touched).contains(&wanted),
            "{touched} touched: {}",
            found.everything()
        );
        let export =
            |supplement| cli.succeed(&["export", "--want", "w.txt", "-o", supplement, "--no-cache", "--force"]);
        export("s.tar");
        // What a manifest needs is known only when the manifest is there again.
        cli.run(&["verify", "z.tar", "s.tar", "--want", "w.txt"]);
        let mut files = vec!["z.tar", "s.tar"];
        if !fs::read_to_string(cli.path("w.txt")).unwrap().contains(" 0 blobs") {
            export("t.tar");
            files.push("t.tar");
        }
        cli.succeed(&[&["verify"], &files[..]].concat());
        let target = Double::new();
        let destination = format!("{}/m", target.host());
        let imported = cli.succeed(&[&["import"], &files[..], &["-d", &destination]].concat());
        assert_eq!(imported.lines().len(), 3, "{}", imported.everything());
    }
}

#[test]
fn an_archive_behind_the_archive_is_no_part_of_it() {
    let (cli, _registry, bytes) = exported();
    fs::write(cli.path("two.tar"), [bytes.clone(), bytes].concat()).unwrap();
    let verified = cli.succeed(&["verify", "two.tar"]);
    let verified = verified.says(&["after the end of the archive are ignored"]);
    assert!(verified.stdout.contains("SOUND: "), "{}", verified.everything());
}
