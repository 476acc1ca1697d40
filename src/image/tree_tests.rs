use super::*;

#[test]
fn platforms_are_listed_by_name_and_other_entries_are_counted() {
    let list = |platforms: &[&str]| {
        let records = platforms.iter().map(|platform| PlatformRecord {
            platform: (*platform).to_owned(),
            digest: Digest::sha256(b"x"),
        });
        platform_list(&records.collect::<Vec<_>>())
    };
    assert_eq!(list(&["linux/amd64", "linux/arm64"]), "linux/amd64, linux/arm64");
    assert_eq!(
        list(&["attestation", "linux/amd64", "attestation"]),
        "linux/amd64, 2 attestations"
    );
    assert_eq!(list(&["attestation"]), "1 attestation");
    assert_eq!(
        list(&["index", "windows/amd64", "attestation", "index"]),
        "windows/amd64, 2 nested indexes, 1 attestation"
    );
    assert_eq!(list(&[]), "");
}
