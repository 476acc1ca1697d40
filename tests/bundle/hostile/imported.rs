//! The hostile archives through `import`, from a file and from a pipe, into a registry whose content is checked
//! afterwards.
//!
//! Each layout is also written in the form of this program's bundles, with a record and the manifests first: from a
//! pipe, such a bundle is pushed in a single pass, while any other archive is copied first.

use std::io::Cursor;
use std::sync::Arc;

use docker_mirror::{
    Bundle, OpenOptions, Progress, Result,
    import::{Selection, import, import_pipe},
    push::PushReport,
};

use super::Expect::{self, Blob, Fine, Open, Refused, Warning};
use crate::archives::{as_ours, options, save, text};
use crate::handmade::{registries, request};
use crate::support::Double;

/// Faults behind the last layer of a bundle in a pipe, which are found after its images may have been pushed. The run
/// fails nevertheless.
const LATE: &[&str] = &[
    "r01 parent folder",
    "r01 parent inside",
    "r01 absolute",
    "r01 drive",
    "r01 backslash",
    "r01 NUL",
    "r01 long traversal",
    "r01 name too long",
    "r02 linked blob",
    "r02 hard linked blob",
    "r03 character device",
    "r03 block device",
    "r03 pipe",
    "r03 GNU sparse",
    "r03 pax sparse",
    "r03 multi-volume",
    "r03 unknown type",
    "r04 pax size differs",
    "r04 pax key twice",
    "r04 pax garbage",
    "r04 pax huge",
    "r04 two pax headers",
    "r04 global size",
    "r04 two long names",
    "r04 names that differ",
    "r04 nothing behind it",
    "r05 checksum",
    "r05 negative size",
    "r05 overflowing size",
    "r05 2^63",
    "r05 size is no number",
    "r05 more than there is",
    "r05 folder with a body",
    "r06 cut in a header",
    "r09 another index",
    "r09 another blob",
];

/// Faults in a layer of a bundle in a pipe, which are found after uploads have begun. No tag is pushed.
const ON_THE_WAY: &[&str] = &[
    "r06 cut in a body",
    "r11 upper case",
    "r12 blob too long",
    "r12 blob too short",
    "r24 addresses of a missing layer",
];

/// Where an archive comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    File,
    Pipe,
}

/// What came of it.
pub(crate) struct Ran {
    pub(crate) registry: Double,
    pub(crate) result: Result<PushReport>,
    bundle: Option<Arc<Bundle>>,
}

/// An import in a runtime of its own.
pub(crate) fn once(bytes: &[u8], from: From) -> Ran {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(bytes, from))
}

async fn run(bytes: &[u8], from: From) -> Ran {
    let registry = Double::new();
    let saved = save("bundle.tar", bytes);
    let opened = match from {
        From::File => Bundle::open(std::slice::from_ref(&saved.path), &options(None)).map(|bundle| (bundle, None)),
        From::Pipe => Bundle::from_pipe(Cursor::new(bytes.to_vec()), "bundle.tar", &options(None)),
    };
    let (bundle, rest) = match opened {
        Ok((bundle, rest)) => (Arc::new(bundle), rest),
        Err(error) => {
            return Ran {
                registry,
                result: Err(error),
                bundle: None,
            };
        }
    };
    let (select, request, registries) = (Selection::default(), request(&registry), registries());
    let progress = Progress::silent();
    let result = match rest {
        Some(rest) => import_pipe(bundle.clone(), rest, select, request, &registries, progress).await,
        None => import(bundle.clone(), select, request, &registries, progress).await,
    };
    Ran {
        registry,
        result,
        bundle: Some(bundle),
    }
}

impl Ran {
    /// What was said of whatever failed; `None` for a success.
    pub(crate) fn said(&self) -> Option<String> {
        match &self.result {
            Err(error) => Some(text(error)),
            Ok(report) if report.failed() => {
                let failures = report.images.iter().filter_map(|image| image.error.as_ref());
                Some(failures.map(|f| format!("{} | {:?}; ", f.full(), f.hint())).collect())
            }
            Ok(_) => None,
        }
    }

    pub(crate) fn tags(&self) -> Vec<String> {
        let store = self.registry.store();
        let tags = |name: &String| store.repository(name).unwrap_or_default().tags.into_keys();
        store.repositories().iter().flat_map(tags).collect()
    }

    /// Requests that change something.
    pub(crate) fn changes(&self) -> usize {
        ["POST", "PUT", "PATCH"]
            .map(|method| self.registry.count(method, ""))
            .iter()
            .sum()
    }

    /// Compares the registry with the complete expected content, byte for byte, and describes the first difference.
    fn incomplete(&self) -> Option<String> {
        let (Some(bundle), Ok(report)) = (&self.bundle, &self.result) else {
            return Some("not imported".to_owned());
        };
        for (image, report) in bundle.images().iter().zip(&report.images) {
            let Ok(tree) = bundle.tree(image) else {
                return Some(format!("{} has no tree", image.name));
            };
            let repository = format!("mirror/{}", image.name.repository());
            let found = self.registry.store().repository(&repository).unwrap_or_default();
            let tag = found.tags.get(image.name.tag().unwrap_or_default());
            if tag != report.pushed.as_ref().map(ToString::to_string).as_ref() {
                return Some(format!("the tag of {} holds {tag:?}", image.name));
            }
            for manifest in tree.pushed().all() {
                if self
                    .registry
                    .manifest(&repository, &manifest.digest().to_string())
                    .as_ref()
                    != Some(manifest.bytes())
                {
                    return Some(format!("manifest {} is not there as it was", manifest.digest()));
                }
            }
            for blob in tree.blobs() {
                let digest = blob.descriptor.digest;
                let content = self.registry.store().blob(&repository, &digest.to_string());
                if content.is_none_or(|content| digest.same_algorithm(&content.all()) != digest) {
                    return Some(format!("blob {digest} is not there as it was"));
                }
            }
        }
        None
    }

    /// Returns a blob of the file that does not have the digest in its name and that the registry has nevertheless.
    fn has_wrong_blob(&self, bytes: &[u8]) -> Option<String> {
        let saved = save("bundle.tar", bytes);
        let bundle = Bundle::open(std::slice::from_ref(&saved.path), &OpenOptions::default()).ok()?;
        let trees = bundle.images().iter().filter_map(|image| bundle.tree(image).ok());
        let blobs = trees.flat_map(|tree| tree.blobs());
        let mut wrong = blobs.filter(|blob| bundle.verify_blob(&blob.descriptor.digest).is_err());
        let there = wrong.find(|blob| {
            self.registry
                .store()
                .content(&blob.descriptor.digest.to_string())
                .is_some()
        });
        there.map(|blob| format!("the wrong blob {} is there", blob.descriptor.digest))
    }
}

/// Returns what is wrong with an import of this archive; `late` and `on_the_way` say whether the fault is in the tables
/// above.
fn judge(expect: &Expect, ran: &Ran, bytes: &[u8], late: bool, on_the_way: bool) -> Option<String> {
    if let Warning(_) | Fine = expect {
        return match ran.said() {
            Some(said) => Some(format!("failed: {said}")),
            None => ran.incomplete(),
        };
    }
    let Some(said) = ran.said() else {
        return Some("was a success".to_owned());
    };
    if said.contains('\u{1b}') {
        return Some(format!("steers the terminal: {said}"));
    }
    if late {
        return None;
    }
    if !ran.tags().is_empty() {
        return Some(format!("tagged {:?}, and said {said}", ran.tags()));
    }
    match expect {
        Blob(_) => ran.has_wrong_blob(bytes),
        _ if on_the_way => None,
        _ if ran.changes() > 0 => Some(format!("sent something:\n{}", ran.registry.transcript())),
        Open(_) if !ran.registry.requests().is_empty() => Some("asked the registry".to_owned()),
        Refused(parts) => super::has(&said, parts),
        _ => None,
    }
}

/// Imports an archive in every way, and returns each unexpected result.
pub(crate) fn faults(name: &str, generate: fn() -> Vec<u8>, expect: &Expect) -> Vec<String> {
    let (foreign, ours) = (generate(), as_ours(generate));
    let mut wrong = Vec::new();
    for (style, bytes) in [("foreign", &foreign), ("ours", &ours)] {
        if style == "ours" && ours == foreign {
            continue;
        }
        for from in [From::File, From::Pipe] {
            let single_pass = style == "ours" && from == From::Pipe;
            let late = single_pass && LATE.contains(&name);
            let on_the_way = single_pass && ON_THE_WAY.contains(&name);
            let ran = once(bytes, from);
            if let Some(what) = judge(expect, &ran, bytes, late, on_the_way) {
                wrong.push(format!("{name} ({style}, {from:?}): {what}"));
            }
        }
    }
    wrong
}

/// Every name in the tables is that of a case.
pub(crate) fn check_tables(names: &[&str]) {
    for listed in LATE.iter().chain(ON_THE_WAY) {
        assert!(names.contains(listed), "there is no case `{listed}`");
    }
}
