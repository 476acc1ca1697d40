//! Reads the images of one archive: an OCI image layout (OCI image-spec, image-layout.md) or Docker's `manifest.json`.

use oci_spec::image::OciLayout;

use super::archive::Archive;
use super::broken::{BrokenArchive, BrokenImage};
use super::contents::{BadDocument, Contents, DockerList};
use super::docker::items::{self, Items};
use super::docker::rebuild;
use super::identity;
use super::index;
use super::name_override::NameOverrides;
use super::no_archive::{no_archive, warn_of_others};
use super::record_check;
use super::store::Store;
use super::unlisted;
use crate::bundle::layout::index_json;
use crate::bundle::record;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::text::quote;

/// The only known version of the layout.
const LAYOUT_VERSION: &str = "1.0.0";

/// Maximum size of `oci-layout` in bytes; the file has about thirty.
const MAX_LAYOUT: u64 = 64 << 10;

/// Reads the images that an archive lists. `given` are the names from the user.
///
/// The OCI layout takes precedence.
/// `manifest.json` is used if there is no OCI layout, and for an image whose OCI manifest is wrong.
pub(super) fn read(archive: &mut Archive, store: &mut Store, given: &mut NameOverrides<'_>) -> Result<Contents> {
    archive.check_documents()?;
    let is_own = archive.files.contains_key(record::MEMBER);
    let mut bad_documents = Vec::new();
    let layout = version(archive)?;
    let layout_is_known = layout.is_ok();
    let is_archive = layout_is_known || archive.files.contains_key(items::MEMBER);
    if let Some(bad_link) = archive.bad_link.take_if(|_| is_archive) {
        return Err(bad_link.error);
    }
    let items = match Items::read(archive) {
        // `manifest.json` of a bundle repeats what `index.json` says, for other programs.
        Err(why) if is_own && layout_is_known && why.kind() == Kind::Malformed => {
            bad_documents.push(BadDocument::new(archive, items::MEMBER, why));
            None
        }
        items => items?,
    };
    let mut contents = match (layout, items) {
        (Ok(()), items) => {
            let items = items.unwrap_or_default();
            let mut contents = index::read(archive, store, &items, given)?;
            // In bundles of this program `manifest.json` lists only one platform of each image, so the index alone counts.
            if !archive.files.contains_key(record::MEMBER) {
                let listed = std::mem::take(&mut contents.listed);
                unlisted::add(archive, store, &items, &listed, given, &mut contents)?;
                contents.listed = listed;
            }
            rebuild::rebuild_contradicted(archive, store, &items, &mut contents);
            record_check::warn(archive, &contents);
            contents.docker_list = DockerList::new(archive, store, items)?;
            contents
        }
        // A bundle of this program always has a layout: without one the bundle is damaged, and `manifest.json` lists only
        // some of its images, with one platform each.
        (Err(why), _) if archive.files.contains_key(record::MEMBER) && why.kind() != Kind::Unsupported => {
            return Err(why.with_hint("the bundle is damaged; copy it again, or export it again"));
        }
        (Err(why), Some(items)) => {
            if archive.files.contains_key("oci-layout") {
                archive
                    .warnings
                    .push(format!("{why}; its `{}` is used instead", items::MEMBER));
            }
            rebuild::read_items(archive, store, &items, given)?
        }
        (Err(why), None) => return Err(why),
    };
    contents.bad_documents.extend(bad_documents);
    if contents.has_faults() {
        // The fault that was found says more than a checksum.
        contents
            .bad_documents
            .retain(|document| document.error.kind() != Kind::Integrity);
    }
    take_out_misnamed(archive, store, &mut contents);
    if contents.images.is_empty() && contents.broken.is_empty() {
        let mut error = Error::new(Kind::Malformed, format!("`{}` holds no image", quote(&archive.label)));
        if !contents.missing.is_empty() {
            error = error.with_hint("every image that was asked for failed when it was made; export it again");
        } else if layout_is_known && !archive.files.contains_key(record::MEMBER) && archive.has_blobs {
            contents.is_supplement = is_supplement(archive)?;
            // Nothing is wrong with a supplement that is given alone.
            let error = match contents.is_supplement {
                true => error.with_kind(Kind::Usage),
                false => error,
            };
            let error =
                error.with_hint("it has blobs alone, which complete a damaged bundle: give it together with that one");
            contents.holds_only_blobs = Some(BrokenArchive::new(&archive.label, error));
            return Ok(contents);
        }
        return Err(error);
    }
    warn_of_others(archive);
    Ok(contents)
}

/// Returns whether the documents of an archive without images are those of a supplement, byte by byte.
fn is_supplement(archive: &Archive) -> Result<bool> {
    let index = archive.read("index.json", MAX_LAYOUT)?;
    Ok(index.is_some_and(|index| index_json(&[]).is_ok_and(|empty| empty.digest == Digest::sha256(&index))))
}

/// Moves images whose name states another digest than their own to the broken images.
fn take_out_misnamed(archive: &Archive, store: &Store, contents: &mut Contents) {
    for image in std::mem::take(&mut contents.images) {
        match identity::check(&image.name, &image.root.digest, image.record.as_deref())
            .and_then(|()| identity::check_tag(&image, store))
        {
            Ok(()) => contents.images.push(image),
            Err(error) => {
                let broken = BrokenImage::misnamed(archive, image.place, vec![image.name], error);
                contents.broken.extend(broken);
            }
        }
    }
}

/// Checks that the archive has a known version of the image layout. The inner error says why not.
fn version(archive: &Archive) -> Result<Result<(), Error>> {
    let Some(bytes) = archive.read("oci-layout", MAX_LAYOUT)? else {
        return Ok(Err(no_archive(archive)));
    };
    let place = archive.describe("oci-layout");
    Ok(match serde_json::from_slice::<OciLayout>(&bytes) {
        Ok(layout) if layout.image_layout_version() == LAYOUT_VERSION => Ok(()),
        Ok(layout) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "{place}: unknown layout version `{}`; only `{LAYOUT_VERSION}` is known",
                quote(&layout.image_layout_version())
            ),
        )),
        Err(e) => Err(Error::new(Kind::Malformed, format!("{place}: it is not valid JSON of its kind")).with_source(e)),
    })
}
