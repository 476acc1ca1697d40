//! TLS with a private authority, and with client certificates.

use std::path::Path;

use super::support::distribution::Distribution;
use super::support::tls::{Authority, write_pem};
use super::{both_ways, cli, fill};

/// Returns the `tls:` section of a registry with a certificate of this authority, which accepts only clients that the
/// authority certified as well.
fn tls(folder: &Path, authority: &Authority, only_known: bool) -> (String, String) {
    let pair = authority.server(&["127.0.0.1", "localhost"]);
    let certificate = write_pem(folder, "server.pem", &pair.certificate);
    let key = write_pem(folder, "server.key", &pair.key);
    let mut text = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        certificate.display(),
        key.display()
    );
    if only_known {
        let authority = write_pem(folder, "clients.pem", &authority.pem());
        text.push_str(&format!("    clientcas: [{}]\n", authority.display()));
    }
    (String::new(), text)
}

#[test]
fn an_authority_of_ones_own() {
    let authority = Authority::new("authority of a test");
    let start = || Distribution::start("docker-registry with TLS", |folder| tls(folder, &authority, false));
    let (Some(source), Some(target)) = (start(), start()) else {
        return;
    };
    fill(&source.client());
    let cli = cli();
    let file = write_pem(cli.folder(), "authority.pem", &authority.pem());
    let more = ["--ca-file", file.to_str().unwrap()];
    both_ways(&cli, &source.host(), &target.host(), &more, &target.client());
    let image = &super::names(&source.host())[0];
    cli.run(&["export", image, "-o", "other.tar"])
        .expect_code(1)
        .says(&[&source.host(), "certificate", "--ca-file"]);
    assert!(!cli.path("other.tar").exists());
}

#[test]
fn a_certificate_for_the_client() {
    let authority = Authority::new("authority of a test");
    let start = || {
        Distribution::start("docker-registry that wants client certificates", |folder| {
            tls(folder, &authority, true)
        })
    };
    let (Some(source), Some(target)) = (start(), start()) else {
        return;
    };
    fill(&source.client());
    let cli = cli();
    let file = |name: &str, pem: &str| write_pem(cli.folder(), name, pem).to_str().unwrap().to_owned();
    let trusted = file("authority.pem", &authority.pem());
    let own = authority.client("somebody");
    let (certificate, key) = (file("own.pem", &own.certificate), file("own.key", &own.key));
    let more = ["--ca-file", &trusted, "--cert", &certificate, "--key", &key];
    both_ways(&cli, &source.host(), &target.host(), &more, &target.client());

    // None, and one of somebody else's authority.
    let image = &super::names(&source.host())[0];
    let export = ["export", image, "-o", "other.tar", "--ca-file", &trusted];
    cli.run(&export).expect_code(1).says(&[&source.host(), "--cert"]);
    let other = Authority::new("another authority").client("somebody");
    let (certificate, key) = (file("other.pem", &other.certificate), file("other.key", &other.key));
    let mut export = export.to_vec();
    export.extend(["--cert", &certificate, "--key", &key]);
    cli.run(&export).expect_code(1).says(&[&source.host(), "certificate"]);
    assert!(!cli.path("other.tar").exists());
}
