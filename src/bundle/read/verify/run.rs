//! The run of a verification.

use super::faults;
use super::faults::Faults;
use super::hash;
use super::images;
use super::layers;
use super::options::VerifyOptions;
use super::result::{Fault, FaultKind, Verification};
use crate::bundle::read::Bundle;
use crate::bundle::read::stream::pipe::Incoming;
use crate::error::Result;
use crate::text::counted;

/// Memory in bytes of the record of a wrong blob.
const WRONG: u64 = 96;

/// Reads and verifies all bundles. `rest` is the unread part of a pipe.
///
/// # Errors
/// If `rest` breaks the rules of its format and cannot be read further. The result holds all other faults.
pub fn verify(bundle: &Bundle, rest: Option<Incoming>, options: &VerifyOptions) -> Result<Verification> {
    let mut faults = Faults::new(bundle);
    faults.add_unreadable();
    let progress = &options.progress;
    let hashed = match rest {
        None => hash::read_all(hash::places(bundle), progress),
        Some(rest) => hash::read_pipe(bundle, rest, progress)?,
    };
    // Images have the less memory, the more is wrong.
    let taken = hashed.wrong.kinds.len() as u64 * WRONG;
    bundle.budget().take(taken.min(bundle.budget().left()))?;
    let mut checked = hashed.checked;
    checked.members += bundle.parts.documents;
    let mut files = bundle.store.sums.clone();
    files.extend(hashed.files.iter().cloned());
    let (label, tar_faults) = &hashed.tar_faults;
    faults.add_tar(label, tar_faults);
    if let Some(error) = &hashed.cut_off {
        faults.add(Fault {
            file: Some(label.as_str().into()),
            ..Fault::from_error(FaultKind::Archive, error)
        });
    }
    faults.add_wrong(&hashed.wrong);
    let found = images::check(bundle, &hashed, options.deep, &mut faults);
    checked.images = found.images;
    if faults.is_empty() && !bundle.parts.is_supplement {
        (checked.unreferenced_blobs, checked.unreferenced_bytes) = found.unreferenced;
    }
    let mut warnings = bundle.parts.warnings.clone();
    if options.deep {
        let unpacking = layers::check(bundle, found.contents, options, &mut faults);
        checked.layers_unpacked = unpacking.layers;
        checked.unpacked_bytes = unpacking.bytes;
        let (unsupported, why) = unpacking.unsupported;
        checked.layers_not_unpacked = found.encrypted + unsupported;
        let not_unpacked = |count: u64| counted(count, "layer was not unpacked", "layers were not unpacked");
        if found.encrypted > 0 {
            warnings.push(format!("{}: encrypted", not_unpacked(found.encrypted)));
        }
        if let Some(why) = why {
            warnings.push(format!("{}: {}", not_unpacked(unsupported), why.full()));
        }
    }
    if bundle.parts.has_supplement {
        faults.excuse_harmless();
    }
    warnings.append(hashed.warnings);
    let nameless = bundle.parts.broken.iter().filter(|image| faults::lacks_a_name(image));
    warnings.extend(nameless.map(|image| {
        format!(
            "{}; it was verified, and cannot be imported without a name",
            image.error.full()
        )
    }));
    Ok(Verification {
        missing: bundle.parts.missing.clone(),
        is_supplement: bundle.parts.is_supplement,
        ..faults.into_verification(files, checked, warnings)
    })
}
