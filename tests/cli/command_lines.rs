//! A wrong command line gets a message that names the right one.

use super::support::Double;
use super::{cli, source};

/// A command line, its exit code, what it says, and what it must not say.
struct Line {
    arguments: &'static [&'static str],
    code: i32,
    says: &'static [&'static str],
    not: &'static [&'static str],
}

const fn line(arguments: &'static [&'static str], code: i32, says: &'static [&'static str]) -> Line {
    Line {
        arguments,
        code,
        says,
        // The parser's suggestion that an option could be the name of an image.
        not: &["as a value"],
    }
}

/// An option that the parser must not answer with the nearest option by letters.
const fn foreign(arguments: &'static [&'static str], says: &'static [&'static str]) -> Line {
    Line {
        arguments,
        code: 2,
        says,
        not: &["a similar argument exists"],
    }
}

const HEX: &str = "0123456789012345678901234567890123456789012345678901234567890123";
const PINNED: &str = "img@0123456789012345678901234567890123456789012345678901234567890123";
const PINNED_DEST: &str = "127.0.0.1:1/m@sha256:0123456789012345678901234567890123456789012345678901234567890123";

const LINES: &[Line] = &[
    // Commands that there are not.
    line(
        &["exprot", "img", "-o", "a.tar"],
        2,
        &["did you mean `docker-mirror export`?"],
    ),
    line(
        &["Export", "img", "-o", "a.tar"],
        2,
        &["did you mean `docker-mirror export`?"],
    ),
    line(&["imprt", "a.tar"], 2, &["did you mean `docker-mirror import`?"]),
    line(
        &["catalog", "a.tar"],
        2,
        &[
            "the commands are `export`, `import`, `inspect`, `verify`, `diff` and `limits`",
            "`catalog` is none of them",
        ],
    ),
    // Commands and options of other programs.
    line(&["list", "a.tar"], 2, &["did you mean `docker-mirror inspect`?"]),
    line(
        &["push", "a.tar", "-d", "127.0.0.1:1"],
        2,
        &["did you mean `docker-mirror import`?"],
    ),
    line(
        &["pull", "img", "-o", "a.tar"],
        2,
        &["did you mean `docker-mirror export`?"],
    ),
    line(
        &["copy", "a", "b"],
        2,
        &["did you mean `docker-mirror -d REGISTRY[/PREFIX] IMAGE...`?"],
    ),
    line(&["version"], 2, &["did you mean `docker-mirror --version`?"]),
    foreign(
        &["import", "b.tar", "--to", "127.0.0.1:1"],
        &["is `-d REGISTRY[/PREFIX]` here"],
    ),
    foreign(
        &["export", "img", "-o", "a.tar", "--all"],
        &["is `--platform all` here"],
    ),
    foreign(
        &["export", "img", "-o", "a.tar", "--all-platforms"],
        &["is `--platform all` here"],
    ),
    foreign(
        &["import", "b.tar", "-d", "127.0.0.1:1", "--tls-verify=false"],
        &["`--plain-http`"],
    ),
    foreign(
        &["export", "img", "-o", "a.tar", "-u", "me"],
        &["`--username NAME --password-stdin`"],
    ),
    foreign(
        &["-d", "127.0.0.1:1", "img", "--reuse", "b.tar"],
        &["`--reuse` is an option of `docker-mirror export`"],
    ),
    foreign(
        &["export", "img", "-o", "a.tar", "--bananas"],
        &["unexpected argument '--bananas'"],
    ),
    line(&["import", "b.tar", "127.0.0.1:1/x"], 2, &["write `-d 127.0.0.1:1/x`"]),
    // A bundle in the place of an image, and an image in the place of a bundle.
    line(
        &["-d", "127.0.0.1:1/x", "b.tar"],
        2,
        &["`b.tar` is an archive", "`docker-mirror import b.tar -d "],
    ),
    line(&["b.tar"], 2, &["`docker-mirror import b.tar -d "]),
    line(
        &["export", "-f", "b.tar", "-o", "a.tar"],
        2,
        &["it is an archive, and no list", "`docker-mirror inspect b.tar`"],
    ),
    line(
        &["inspect", "nginx:1.27"],
        2,
        &["`docker-mirror export nginx:1.27 -o bundle.tar`"],
    ),
    line(
        &["verify", "127.0.0.1:1/library/nginx"],
        2,
        &["`docker-mirror -d REGISTRY 127.0.0.1:1/library/nginx`"],
    ),
    line(
        &["diff", "nginx:1", "nginx:2"],
        2,
        &["`docker-mirror export nginx:1 -o bundle.tar`"],
    ),
    line(
        &["import", "nginx:1.27", "-d", "127.0.0.1:1/x"],
        2,
        &["`docker-mirror export nginx:1.27 -o bundle.tar`"],
    ),
    line(
        &["import", "usb/monthly.tar", "-d", "127.0.0.1:1/x"],
        2,
        &["hint: check the name"],
    ),
    line(&["contents", "a.tar"], 2, &["`contents` is none of them"]),
    line(
        &["completion", "bash"],
        2,
        &["did you mean `docker-mirror completions`?"],
    ),
    line(
        &["exprot", "img", "-d", "127.0.0.1:1"],
        2,
        &["did you mean `docker-mirror export`?", "written `library/exprot`"],
    ),
    line(
        &["-d", "127.0.0.1:1", "verfy", "img"],
        2,
        &["did you mean `docker-mirror verify`?"],
    ),
    line(&["login", "-d", "127.0.0.1:1"], 2, &["`docker login REGISTRY`"]),
    line(&["nginx"], 2, &["is taken for an image, which needs a destination"]),
    // Files with two purposes.
    line(
        &["export", "127.0.0.1:1/a", "-o", "two.tar", "--report", "./two.tar"],
        2,
        &["`--report ./two.tar`: this is the file that is written by `-o`"],
    ),
    line(
        &[
            "export",
            "127.0.0.1:1/a",
            "-o",
            "two.tar",
            "--report",
            "two.tar.partial",
        ],
        2,
        &["`--report two.tar.partial`: this is the file that is written by `-o`"],
    ),
    line(
        &[
            "export",
            "127.0.0.1:1/a",
            "-o",
            "two.tar",
            "--report",
            "two.tar.partial.journal",
        ],
        2,
        &["this is the file that is written by `-o`"],
    ),
    line(
        &["export", "-f", "list.txt", "-o", "list.txt", "--force"],
        2,
        &["this is the file that is read by `--images`"],
    ),
    line(
        &["export", "--lock", "there.tar", "-o", "there.tar", "--force"],
        2,
        &["this is the file that is read by `--lock`"],
    ),
    line(
        &["inspect", "b.tar", "--lock", "two", "--html", "two"],
        2,
        &["this is the file that is written by `--lock`"],
    ),
    line(
        &["verify", "b.tar", "--want", "two", "--report", "two"],
        2,
        &["this is the file that is written by `--want`"],
    ),
    line(
        &[
            "import",
            "b.tar",
            "-d",
            "127.0.0.1:1",
            "--want",
            "two",
            "--report",
            "two",
        ],
        2,
        &["this is the file that is written by `--want`"],
    ),
    // A name that contradicts the flag.
    line(
        &["export", "127.0.0.1:1/a", "-o", "a.tar.zst", "--gzip"],
        2,
        &["`--gzip` and `-o a.tar.zst`, whose name says zstd, contradict each other"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "a.tgz", "--zstd"],
        2,
        &["whose name says gzip"],
    ),
    line(
        &["help", "nonsense"],
        2,
        &["the commands are `export`, `import`, `inspect`, `verify`, `diff` and `limits`"],
    ),
    line(&["help", "mirror"], 0, &["--keep-host"]),
    // Options of another command, and of none.
    line(
        &["-d", "127.0.0.1:1/x", "-o", "x.tar", "img"],
        2,
        &["`-o` is an option of `docker-mirror export`"],
    ),
    line(
        &["export", "img", "-o", "a.tar", "-d", "x"],
        2,
        &["`-d` is an option of `docker-mirror import`"],
    ),
    line(
        &["export", "img", "-o", "a.tar", "--keep-host"],
        2,
        &["`--keep-host` is an option of `docker-mirror import` and"],
    ),
    line(
        &["import", "a.tar", "-d", "x", "--allow-partial"],
        2,
        &["`--allow-partial` is an option of `docker-mirror export`"],
    ),
    line(
        &["export", "img", "-o", "a.tar", "--nonsense"],
        2,
        &["unexpected argument '--nonsense'"],
    ),
    line(
        &["export", "img", "-o", "a.tar", "--platfrom", "x"],
        2,
        &["'--platform'"],
    ),
    // Passwords of one side.
    line(
        &["-d", "127.0.0.1:1", "img", "--dest-username", "me", "--password-stdin"],
        2,
        &["is given with `--dest-password-stdin`"],
    ),
    line(
        &[
            "-d",
            "127.0.0.1:1",
            "img",
            "--src-username",
            "me",
            "--src-password-stdin",
            "--dest-username",
            "me",
            "--dest-password-stdin",
        ],
        2,
        &["`DOCKER_MIRROR_DEST_PASSWORD`"],
    ),
    // Values.
    line(
        &["export", "img", "-o", "a.tar", "-j", "many"],
        2,
        &["a whole number from 1 to 256 is needed"],
    ),
    line(
        &["export", "img", "-o", "a.tar", "--timeout", "0"],
        2,
        &["a whole number of at least 1 is needed"],
    ),
    line(
        &["export", "img", "-o", "a.tar", "--index", "full"],
        2,
        &["hint: one of `auto`, `filtered`, `sparse`"],
    ),
    line(
        &["import", "x", "-d", "a.io", "--index", "foo"],
        2,
        &["hint: one of `auto`, `filtered`, `sparse`"],
    ),
    line(
        &["import", "x", "-d", "a.io", "--on-existing", "overwritte"],
        2,
        &["hint: one of `overwrite`, `skip`, `error`"],
    ),
    line(
        &["import", "x", "-d", "a.io", "--map", "x"],
        2,
        &["hint: write `SRC=DST`"],
    ),
    // Destinations.
    line(
        &["import", "x", "-d", "http://127.0.0.1:1"],
        2,
        &["hint: omit `http://` and give `--plain-http`"],
    ),
    line(
        &["import", "x", "-d", "oci://127.0.0.1:1/m"],
        2,
        &["it has `oci://`", "hint: omit `oci://`"],
    ),
    line(
        &["import", "x", "-d", "ftp://127.0.0.1:1/m"],
        2,
        &["hint: omit `ftp://`"],
    ),
    line(
        &["import", "x", "-d", "oci:folder"],
        2,
        &["a destination is a registry"],
    ),
    line(
        &["import", "x", "-d", "docker-archive:x.tar"],
        2,
        &["a destination is a registry"],
    ),
    line(
        &["import", "x", "-d", "127.0.0.1:1/m:latest"],
        2,
        &["it has a tag", "hint: omit `:latest`"],
    ),
    line(
        &["import", "x", "-d", ""],
        2,
        &["the destination is empty", "if it comes from a variable"],
    ),
    line(&["import", "x", "-d", "  "], 2, &["the destination is empty"]),
    line(
        &["import", "x", "-d", "user:s3cret@127.0.0.1:1/m"],
        2,
        &["credentials are given with `--username`"],
    ),
    line(&["import", "x", "-d", PINNED_DEST], 2, &["hint: omit the digest"]),
    // References.
    line(
        &["export", "img@sha256:abc", "-o", "a.tar"],
        2,
        &["wrong length", "64 lower-case hex digits"],
    ),
    line(
        &["export", "img@sha256:ABC", "-o", "a.tar"],
        2,
        &["64 lower-case hex digits"],
    ),
    line(&["export", PINNED, "-o", "a.tar"], 2, &[HEX, "hint: write `@sha256:`"]),
    line(
        &["export", "@images.txt", "-o", "a.tar"],
        2,
        &["@images.txt", "--images FILE"],
    ),
    line(
        &["export", "user:s3cret@a.io/x", "-o", "a.tar"],
        2,
        &["credentials are given with `--username`"],
    ),
    line(
        &["export", "127.0.0.1:1/acme/*:1", "-o", "a.tar"],
        2,
        &["a pattern may stand for the tag alone"],
    ),
    // Outputs.
    line(
        &["export", "127.0.0.1:1/a", "-o", "folder"],
        2,
        &["is a folder, not a file"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "folder", "--force"],
        2,
        &["is a folder, not a file"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "/dev/null"],
        2,
        &["not an ordinary file", "`-o -`"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "/dev/null", "--gzip"],
        2,
        &["not an ordinary file", "`-o -`"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "nofolder/a.tar"],
        2,
        &["the folder `nofolder` of the output does not exist"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "nofolder/a.tar.gz"],
        2,
        &["the folder `nofolder` of the output does not exist"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "docker-archive:x.tar"],
        2,
        &["hint: write `-o x.tar`"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "there.tar"],
        2,
        &["already exists", "`--force`"],
    ),
    // Files to import.
    line(
        &["import", "oci-archive:x.tar", "-d", "127.0.0.1:1"],
        2,
        &["hint: omit `oci-archive:`"],
    ),
    line(
        &["import", "gone.tar", "-d", "127.0.0.1:1"],
        2,
        &["does not exist", "`gone.tar.partial` is there", "not finished"],
    ),
    line(&["verify", "gone.tar"], 2, &["`gone.tar.partial` is there"]),
    line(
        &["import", "oci-archive:x.tar:y", "-d", "127.0.0.1:1"],
        2,
        &["write `x.tar`"],
    ),
    line(&["verify", "file:///tmp/x.tar"], 2, &["hint: omit `file://`"]),
    line(&["verify", "usb/*.tar"], 2, &["hint: write the pattern without quotes"]),
    line(
        &["import", "part.aa", "part.ab", "-d", "127.0.0.1:1"],
        2,
        &[
            "2 files are pieces of one archive",
            "`cat part.aa part.ab | docker-mirror import - -d REGISTRY`",
        ],
    ),
    line(&["inspect", "oci-archive:x.tar"], 2, &["hint: omit `oci-archive:`"]),
    line(
        &["import", "gone.tar.partial", "-d", "127.0.0.1:1"],
        5,
        &["is an export that is not finished: run it again"],
    ),
    line(
        &["import", "empty.tar", "-d", "127.0.0.1:1"],
        5,
        &["is empty", "hint: it was not copied"],
    ),
    line(
        &["import", "there.tar", "-d", "127.0.0.1:1"],
        5,
        &[
            "is not a tar archive but a text",
            "hint: this is not an archive of images",
        ],
    ),
    line(
        &["import", "noise.tar", "-d", "127.0.0.1:1"],
        5,
        &["is not a tar archive", "hint: this is not an archive of images"],
    ),
    // Files that options name.
    line(
        &["export", "127.0.0.1:1/a", "-o", "a.tar", "--ca-file", "nofile.pem"],
        2,
        &["`--ca-file`", "No such file"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "a.tar", "--ca-file", "noise.tar"],
        2,
        &["holds no PEM certificate"],
    ),
    line(
        &["export", "127.0.0.1:1/a", "-o", "a.tar", "--auth-file", "nofile"],
        2,
        &["`--auth-file`", "does not exist"],
    ),
    line(
        &[
            "import",
            "there.tar",
            "-d",
            "127.0.0.1:1",
            "--report",
            "nofolder/r.json",
        ],
        2,
        &["its folder does not exist"],
    ),
    // Docker Hub has no third level.
    line(
        &["import", "b.tar", "-d", "docker.io/me/mirror"],
        2,
        &["names on Docker Hub have two components", "`--map "],
    ),
];

#[test]
fn a_command_line_that_is_wrong_is_told_what_would_be_right() {
    let cli = cli();
    std::fs::create_dir(cli.path("folder")).unwrap();
    std::fs::write(cli.path("there.tar"), "hello\n").unwrap();
    std::fs::write(cli.path("list.txt"), "127.0.0.1:1/a\n").unwrap();
    std::fs::write(cli.path("empty.tar"), "").unwrap();
    std::fs::write(cli.path("noise.tar"), super::support::noise(1, 6000)).unwrap();
    let registry = source();
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    let whole = std::fs::read(cli.path("b.tar")).unwrap();
    let (front, back) = whole.split_at(whole.len() / 2 + 100);
    std::fs::write(cli.path("part.aa"), front).unwrap();
    std::fs::write(cli.path("part.ab"), back).unwrap();
    std::fs::write(cli.path("gone.tar.partial"), &whole[..whole.len() / 2]).unwrap();
    for line in LINES {
        let output = cli.run(line.arguments).expect_code(line.code);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(!said.contains("s3cret") && !said.contains("panicked"), "{said}");
        for word in line.says {
            assert!(
                output.stderr.contains(word) || output.stdout.contains(word),
                "no `{word}` in {}",
                output.everything()
            );
        }
        for word in line.not {
            assert!(!output.stderr.contains(word), "`{word}` in {}", output.everything());
        }
    }
}

#[test]
fn a_list_that_is_taken_for_an_image_is_told_so() {
    let (cli, registry) = (cli(), Double::new());
    let name = format!("{}/many", registry.host());
    std::fs::create_dir_all(cli.path(&registry.host())).unwrap();
    std::fs::write(cli.path(&name), "img\n").unwrap();
    cli.run(&["export", &name, "-o", "b.tar"]).expect_code(1).says(&[
        "is taken for an image, though there is a file of this name",
        "--images ",
    ]);
}
