//! Pipes that go on for long before the first member of an archive, or have none.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use docker_mirror::testing::media_type::OCI_LAYER;

use crate::archives::header;
use crate::measured::Lab;
use crate::shapes;
use crate::support::{Double, noise};

/// Size in bytes of a front.
const FRONT: usize = 160 << 20;

/// Memory in bytes that a run may take: less than the front, which no run may keep.
const MEMORY: u64 = FRONT as u64 * 5 / 8;

/// Size in bytes of a piece of a front.
const PIECE: usize = 1 << 20;

/// Time of the processors that a run may take, on a slow machine and without optimization.
const BUSY: Duration = Duration::from_secs(120);

/// Writes a front of repeated pieces between a start and an archive.
fn write(path: &Path, start: &[u8], piece: &[u8], archive: &[u8]) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(start).unwrap();
    (0..FRONT / PIECE).for_each(|_| file.write_all(piece).unwrap());
    file.write_all(archive).unwrap();
    file.flush().unwrap();
}

/// A header of this kind with a body of one piece.
fn extension(kind: u8, body: &[u8]) -> Vec<u8> {
    [&header(b"front", PIECE as u64, kind, b""), body].concat()
}

#[test]
fn the_front_of_a_pipe_stays_below_the_ceilings() {
    let (lab, registry) = (Lab::new(), Double::new());
    shapes::names(&lab.path("good.tar"), 1, 1, OCI_LAYER, true);
    let good = std::fs::read(lab.path("good.tar")).unwrap();
    let junk = noise(0, PIECE);
    let comment = [
        &format!("{PIECE} comment=").into_bytes()[..],
        &vec![b'a'; PIECE - 17],
        b"\n",
    ]
    .concat();
    assert_eq!(comment.len(), PIECE);
    let layout = header(b"oci-layout", 0, b'0', b"");
    let cases: [(&str, &[u8], Vec<u8>, bool); 9] = [
        ("junk", b"", junk.clone(), false),
        ("junk behind a member", &layout, junk.clone(), false),
        ("zeros", b"", vec![0; PIECE], false),
        ("global extended headers", b"", extension(b'g', &comment), true),
        ("extended headers", b"", extension(b'x', &comment), true),
        ("long names", b"", extension(b'L', &vec![b'a'; PIECE]), true),
        ("labels of volumes", b"", extension(b'V', &junk), true),
        ("folders with a size", b"", extension(b'5', &junk), true),
        ("pipes with a size", b"", extension(b'6', &junk), true),
    ];
    let destination = format!("{}/front", registry.host());
    let mut wrong = Vec::new();
    for (name, start, piece, may_be_read) in cases {
        let front = lab.path("front");
        write(&front, start, &piece, &good);
        for arguments in [
            &["verify", "-"][..],
            &["inspect", "-"],
            &["import", "-", "-d", &destination],
            &["import", "good.tar", "/dev/stdin", "-d", &destination, "--dry-run"],
        ] {
            let run = lab.run(arguments, Some(&front));
            let what = format!("{name}: {}", arguments.join(" "));
            println!("{}", run.line(&what));
            let mut found = run.faults(2);
            if run.peak > MEMORY {
                found.push(format!("takes {} bytes of memory", run.peak));
            }
            if run.busy > BUSY {
                found.push(format!("takes {:?}", run.busy));
            }
            assert_ne!(run.ended, Ok(2), "{what}: {}", run.stderr);
            if !may_be_read && run.ended == Ok(0) {
                found.push("is a success".to_owned());
            }
            wrong.extend(found.into_iter().map(|fault| format!("{what}: {fault}")));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
