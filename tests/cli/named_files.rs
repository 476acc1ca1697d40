//! Files and variables that configure connections to registries: their encodings, and when their faults are reported.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::cli;
use super::support::cli::Output;
use super::support::images::helm_chart;
use super::support::tls::{Authority, ServerTls};
use super::support::{Auth, Cli, Double, Options};

const USER: &str = "somebody";
const PASSWORD: &str = "hunter2-very-secret";

/// A registry with `a/b:1` that wants a password.
fn private() -> Double {
    let registry = Double::start(Options::default().auth(Auth::basic(USER, PASSWORD)));
    helm_chart().push(&registry, "a/b", "1");
    registry
}

/// The `auths` of a credential file for this registry.
fn auths(registry: &Double) -> Value {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    json!({registry.host(): {"auth": auth}})
}

/// The content of a credential file for this registry.
fn config(registry: &Double) -> String {
    serde_json::to_string_pretty(&json!({"auths": auths(registry)})).unwrap()
}

/// Returns a text in the encodings of programs on Windows: UTF-8 with a byte order mark, and UTF-16 in both byte
/// orders.
fn encodings(text: &str) -> Vec<Vec<u8>> {
    let text = format!("\u{feff}{}", text.replace('\n', "\r\n"));
    vec![
        text.as_bytes().to_vec(),
        text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ]
}

fn export(cli: &Cli, registry: &Double, flags: &[&str]) -> Output {
    let image = format!("{}/a/b:1", registry.host());
    let mut arguments = vec![
        "export",
        &image,
        "-o",
        "b.tar",
        "--force",
        "--no-cache",
        "--retries",
        "0",
    ];
    arguments.extend(flags);
    cli.run(&arguments)
}

#[test]
fn credential_files_that_were_written_on_windows_are_read() {
    let registry = private();
    for bytes in encodings(&config(&registry)) {
        for name in [".docker/config.json", "run/containers/auth.json", "named.json"] {
            let cli = cli();
            let path = cli.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
            let flags: &[&str] = if name == "named.json" {
                &["--auth-file", name]
            } else {
                &[]
            };
            export(&cli, &registry, flags).expect_code(0).hides(&[PASSWORD]);
        }
    }
    for bytes in encodings(&auths(&registry).to_string()) {
        let cli = cli();
        fs::write(cli.path(".dockercfg"), bytes).unwrap();
        export(&cli, &registry, &[]).expect_code(0);
    }
}

#[test]
fn locks_that_were_written_on_windows_are_read() {
    let (cli, registry) = (cli(), Double::new());
    helm_chart().push(&registry, "a/b", "1");
    export(&cli, &registry, &[]).expect_code(0);
    cli.succeed(&["inspect", "b.tar", "--lock", "b.lock"]);
    for bytes in encodings(&fs::read_to_string(cli.path("b.lock")).unwrap()) {
        fs::write(cli.path("windows.lock"), bytes).unwrap();
        cli.succeed(&["diff", "windows.lock", "b.tar", "--exit-code"]);
        cli.succeed(&["diff", "b.tar", "windows.lock", "--exit-code"]);
        cli.succeed(&[
            "export",
            "--lock",
            "windows.lock",
            "-o",
            "c.tar",
            "--force",
            "--no-cache",
        ]);
        assert!(fs::read(cli.path("c.tar")).unwrap() == fs::read(cli.path("b.tar")).unwrap());
    }
}

#[test]
fn a_registries_conf_that_was_written_on_windows_is_read() {
    let registry = Double::new();
    helm_chart().push(&registry, "a/b", "1");
    let text = format!("[[registry]]\nprefix = \"{}\"\nblocked = true\n", registry.host());
    for bytes in encodings(&text) {
        for name in ["registries.conf", "registries.conf.d/10-own.conf"] {
            let cli = cli();
            let folder = cli.path(".config/containers");
            fs::create_dir_all(folder.join("registries.conf.d")).unwrap();
            fs::write(folder.join("registries.conf"), "").unwrap();
            fs::write(folder.join(name), &bytes).unwrap();
            export(&cli, &registry, &[]).expect_code(3).says(&["is blocked"]);
        }
    }
}

#[test]
fn a_password_that_powershell_pipes_is_taken_without_its_mark() {
    let registry = private();
    let image = format!("{}/a/b:1", registry.host());
    let arguments = ["export", &image, "-o", "b.tar", "--username", USER, "--password-stdin"];
    let cli = cli();
    let mut child = cli.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("\u{feff}{PASSWORD}\r\n").as_bytes()).unwrap();
    drop(input);
    Output::new(&child.wait_with_output().unwrap(), &arguments).expect_code(0);
}

/// A registry that speaks TLS, with `a/b:1`.
fn encrypted(tls: ServerTls) -> Double {
    let registry = Double::start(Options::default().tls(tls));
    helm_chart().push(&registry, "a/b", "1");
    registry
}

#[test]
fn authorities_are_read_in_every_form() {
    let (authority, other) = (Authority::new("of a company"), Authority::new("another"));
    let registry = encrypted(ServerTls::new(authority.server(&["127.0.0.1"])));
    let pem = authority.pem();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let put_together = format!("\u{feff}{}\u{feff}{pem}", other.pem()).into_bytes();
    let mut forms = encodings(&pem);
    forms.extend([pem.replace('\n', "\r\n").into_bytes(), der, put_together]);
    for bytes in forms {
        let mut cli = cli();
        fs::create_dir_all(cli.path("folder")).unwrap();
        fs::write(cli.path("folder/company.crt"), &bytes).unwrap();
        fs::write(cli.path("folder/README"), "no certificate").unwrap();
        let file = cli.path("folder/company.crt").to_str().unwrap().to_owned();
        export(&cli, &registry, &["--ca-file", &file]).expect_code(0);
        let folder = cli.path(&format!(".config/containers/certs.d/{}", registry.host()));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(&file, folder.join("ca.crt")).unwrap();
        export(&cli, &registry, &[]).expect_code(0);
        fs::remove_dir_all(cli.path(".config")).unwrap();
        export(&cli, &registry, &[]).expect_code(1).says(&["not trusted here"]);
        let folder = cli.path("folder").to_str().unwrap().to_owned();
        cli.set("SSL_CERT_DIR", folder);
        export(&cli, &registry, &[]).expect_code(0);
        cli.set("SSL_CERT_DIR", "");
        cli.set("SSL_CERT_FILE", file);
        export(&cli, &registry, &[]).expect_code(0);
    }
}

#[test]
fn a_client_certificate_is_read_in_every_form() {
    let authority = Authority::new("of a company");
    let registry = encrypted(ServerTls::new(authority.server(&["127.0.0.1"])).only_clients_of(&authority));
    let pair = authority.client("me");
    for (certificate, key) in encodings(&pair.certificate).into_iter().zip(encodings(&pair.key)) {
        let cli = cli();
        fs::write(cli.path("ca.pem"), authority.pem()).unwrap();
        fs::write(cli.path("me.pem"), certificate).unwrap();
        fs::write(cli.path("me.key"), key).unwrap();
        let flags = ["--ca-file", "ca.pem", "--cert", "me.pem", "--key", "me.key"];
        export(&cli, &registry, &flags).expect_code(0);
    }
}

#[test]
fn the_hint_about_an_unknown_authority_names_the_files_that_are_not_in_use() {
    let registry = encrypted(ServerTls::new(Authority::new("unknown").server(&["127.0.0.1"])));
    let mut cli = cli();
    export(&cli, &registry, &[])
        .expect_code(1)
        .says(&["not trusted here", "`--ca-file`"]);
    cli.set("REQUESTS_CA_BUNDLE", "/etc/company.pem");
    cli.set("SSL_CERT_FILE", "/nowhere/ca.pem");
    let output = export(&cli, &registry, &[]).expect_code(1).says(&[
        "`REQUESTS_CA_BUNDLE` is not read: give `--ca-file /etc/company.pem`",
        "`SSL_CERT_FILE`: cannot read `/nowhere/ca.pem`",
    ]);
    assert!(!output.stderr.contains("UnknownIssuer"), "{}", output.everything());
}

#[test]
fn a_certificate_that_is_self_signed_is_called_that() {
    let registry = encrypted(ServerTls::new(super::support::tls::self_signed(&["127.0.0.1"])));
    let cli = cli();
    // Without a known authority, the role of the certificate would not be checked.
    fs::write(cli.path("ca.pem"), Authority::new("another").pem()).unwrap();
    let output = export(&cli, &registry, &["--ca-file", "ca.pem"]).expect_code(1).says(&[
        "is self-signed and not trusted here",
        "hint: the files given with `--ca-file` do not contain it",
    ]);
    assert!(!output.stderr.contains("OtherError"), "{}", output.everything());
    // The same of a certificate whose authority the file does not contain.
    let registry = encrypted(ServerTls::new(Authority::new("unknown").server(&["127.0.0.1"])));
    export(&cli, &registry, &["--ca-file", "ca.pem"])
        .expect_code(1)
        .says(&["hint: the files given with `--ca-file` do not contain its authority"]);
}

/// Files that do not have the form that a flag or variable requires, and the messages about them.
fn wrong_files(cli: &Cli) {
    let pair = Authority::new("some").client("me");
    let other = Authority::new("some").client("me");
    for (name, content) in [
        ("text.pem", "no certificate at all\n"),
        ("me.pem", &pair.certificate),
        ("me.key", &pair.key),
        ("other.key", &other.key),
        ("broken.json", "{\"auths\": "),
        ("broken.conf", "[[registry]\n"),
    ] {
        fs::write(cli.path(name), content).unwrap();
    }
    fs::write(cli.path("big.pem"), vec![b'x'; (8 << 20) + 1]).unwrap();
    fs::create_dir(cli.path("folder")).unwrap();
}

#[test]
fn a_file_that_a_flag_names_is_wrong_usage_before_the_first_request() {
    let (source, target) = (super::source(), Double::new());
    let bundle = super::cli();
    let greeting = format!("{}/library/greeting", source.host());
    bundle.succeed(&["export", &format!("{greeting}:1.0"), "-o", "b.tar"]);
    source.forget_requests();
    for (flags, variable, words) in [
        ("--ca-file absent.pem", "", "`--ca-file`: cannot read `absent.pem`"),
        (
            "--ca-file text.pem",
            "",
            "`--ca-file`: `text.pem` holds no pem certificate",
        ),
        ("--ca-file me.key", "", "this is a private key"),
        ("--ca-file folder", "", "`--ca-file`: cannot read `folder`"),
        ("--ca-file big.pem", "", "`big.pem` is no file of certificates or keys"),
        (
            "--cert absent.pem --key me.key",
            "",
            "`--cert` and `--key`: cannot read `absent.pem`",
        ),
        (
            "--cert me.pem --key absent.key",
            "",
            "`--cert` and `--key`: cannot read `absent.key`",
        ),
        (
            "--cert me.pem --key text.pem",
            "",
            "`--cert` and `--key`: `text.pem` holds no pem private key",
        ),
        (
            "--cert me.pem --key other.key",
            "",
            "does not belong to the certificate",
        ),
        (
            "--auth-file absent.json",
            "",
            "`--auth-file`: credential file `absent.json` does not exist",
        ),
        (
            "--auth-file folder",
            "",
            "`--auth-file`: cannot read credential file `folder`",
        ),
        (
            "--auth-file broken.json",
            "",
            "`--auth-file`: credential file `broken.json`: no valid json at line 1",
        ),
        (
            "",
            "REGISTRY_AUTH_FILE=absent.json",
            "`registry_auth_file`: credential file `absent.json`",
        ),
        (
            "",
            "DOCKER_MIRROR_AUTH_FILE=broken.json",
            "`docker_mirror_auth_file`: credential file `broken.json`",
        ),
        (
            "--src-ca-file absent.pem",
            "",
            "`--src-ca-file`: cannot read `absent.pem`",
        ),
        (
            "--dest-cert me.pem --dest-key other.key",
            "",
            "`--dest-cert` and `--dest-key`",
        ),
        ("--mirror nonsense", "", "invalid mirror `nonsense`"),
        ("", "CONTAINERS_REGISTRIES_CONF=broken.conf", "`broken.conf`: line 1"),
    ] {
        let mut cli = cli();
        wrong_files(&cli);
        fs::copy(bundle.path("b.tar"), cli.path("b.tar")).unwrap();
        if let Some((name, value)) = variable.split_once('=') {
            cli.set(name, value);
        }
        let images: Vec<String> = (0..3).map(|n| format!("{greeting}:{n}")).collect();
        let images = images.join(" ");
        let mut commands = vec![format!("-d {} {images}", target.host())];
        let sides = flags.contains("-src-") || flags.contains("-dest-");
        let pulls = flags.contains("--mirror") || variable.contains("REGISTRIES");
        if !sides {
            commands.push(format!("export {images} -o c.tar"));
        }
        if !sides && !pulls {
            commands.push(format!("import b.tar -d {}", target.host()));
            commands.push(format!("limits {}", source.host()));
        }
        for command in commands {
            let arguments: Vec<&str> = command
                .split(' ')
                .chain(flags.split(' ').filter(|f| !f.is_empty()))
                .collect();
            let output = cli.run(&arguments).expect_code(2).says(&[words]);
            let errors = output.stderr.lines().filter(|line| line.starts_with("error: ")).count();
            assert_eq!((errors, output.lines().len()), (1, 0), "{}", output.everything());
        }
    }
    assert!(source.requests().is_empty(), "{}", source.transcript());
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn a_file_that_is_missing_is_wrong_usage_for_every_command_and_nothing_is_done() {
    let (source, target) = (super::source(), Double::new());
    let cli = super::cli();
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    fs::create_dir(cli.path("empty")).unwrap();
    fs::write(cli.path("text.tar"), "no bundle\n").unwrap();
    std::os::unix::fs::symlink("nowhere", cli.path("link.tar")).unwrap();
    let before = cli.files();
    source.forget_requests();
    let import = format!("-d {}", target.host());
    let rows = [
        (format!("import none.tar {import}"), "`none.tar` does not exist"),
        (
            format!("import none.tar {import} --dry-run"),
            "`none.tar` does not exist",
        ),
        (
            format!("import none.tar {import} --verify"),
            "`none.tar` does not exist",
        ),
        (
            format!("import none.tar {import} --want w.txt"),
            "`none.tar` does not exist",
        ),
        (format!("import b.tar none.tar {import}"), "`none.tar` does not exist"),
        (format!("import b.tar link.tar {import}"), "`link.tar` does not exist"),
        (
            format!("import b.tar one.tar two.tar {import}"),
            "2 files cannot be opened: `one.tar` does not exist; `two.tar` does not exist",
        ),
        (format!("import b.tar/x {import}"), "cannot open `b.tar/x`"),
        (format!("import empty {import}"), "holds neither an image layout nor"),
        ("verify none.tar".to_owned(), "`none.tar` does not exist"),
        ("verify b.tar none.tar".to_owned(), "`none.tar` does not exist"),
        ("verify none.tar --want w.txt".to_owned(), "`none.tar` does not exist"),
        ("verify b.tar/x".to_owned(), "cannot open `b.tar/x`"),
        ("verify empty".to_owned(), "holds neither an image layout nor"),
        ("inspect none.tar".to_owned(), "`none.tar` does not exist"),
        ("inspect b.tar none.tar".to_owned(), "`none.tar` does not exist"),
        (
            "inspect none.tar --html p.html --lock l".to_owned(),
            "`none.tar` does not exist",
        ),
        ("inspect empty".to_owned(), "holds neither an image layout nor"),
        ("diff none.tar b.tar".to_owned(), "`none.tar` does not exist"),
        ("diff b.tar none.lock".to_owned(), "`none.lock` does not exist"),
        ("export --images none.txt -o o.tar".to_owned(), "cannot read `none.txt`"),
        (format!("--images none.txt {import}"), "cannot read `none.txt`"),
        ("export --lock none -o o.tar".to_owned(), "cannot open `none`"),
        ("export --want none -o o.tar".to_owned(), "cannot open `none`"),
        (
            format!("export {image} -o o.tar --reuse none.tar"),
            "`--reuse`: `none.tar` does not exist",
        ),
        (
            format!("export {image} -o o.tar --reuse text.tar"),
            "`text.tar` is not a tar archive",
        ),
        (
            format!("export {image} -o none/o.tar"),
            "folder `none` of the output does not exist",
        ),
        ("verify b.tar --want none/w.txt".to_owned(), "--want none/w.txt"),
        ("inspect b.tar --lock none/l".to_owned(), "--lock none/l"),
        ("inspect b.tar --html none/p".to_owned(), "--html none/p"),
        (format!("import b.tar {import} --report none/r"), "--report none/r"),
    ];
    for (command, words) in rows {
        let arguments: Vec<&str> = command.split(' ').collect();
        let output = cli.run(&arguments).expect_code(2);
        assert!(output.stderr.contains(words), "{}", output.everything());
        assert!(output.stderr.contains("\nhint: "), "{}", output.everything());
        assert!(!output.stderr.contains(".tmp"), "{}", output.everything());
        assert!(output.stdout.is_empty(), "{}", output.everything());
    }
    assert_eq!(cli.files(), before);
    assert!(source.requests().is_empty(), "{}", source.transcript());
    assert!(target.requests().is_empty(), "{}", target.transcript());
}

#[test]
fn mirror_is_a_flag_of_the_commands_that_pull_images() {
    let cli = cli();
    for command in ["import b.tar -d registry.invalid", "limits registry.invalid"] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.extend(["--mirror", "docker.io=https://cache.invalid"]);
        cli.run(&arguments).expect_code(2).says(&["--mirror"]);
    }
    for command in ["import", "limits"] {
        let output = cli.succeed(&[command, "--help"]);
        assert!(!output.stdout.contains("--mirror"), "{}", output.stdout);
    }
    for command in [&["export", "--help"][..], &["--help"]] {
        assert!(cli.succeed(command).stdout.contains("--mirror"));
    }
}
