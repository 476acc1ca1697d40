//! Export of a supplement: an image layout with the blobs of a want-list and no image.
//! Imported together with a damaged bundle, a supplement provides the blobs that the bundle lacks.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use super::occupied;
use super::prefetch::Prefetcher;
use super::unfinished::Unfinished;
use crate::bundle::plan::Plan;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest};
use crate::image::reference::Target;
use crate::inventory::want_list::{WantList, WantedBlob};
use crate::progress::{Progress, human_bytes};
use crate::registry::{Presence, Registries};
use crate::text::{byte_count, few_with, quote};
use crate::transfer::export::file::supplement::SupplementFile;
use crate::transfer::export::request::{Compression, Output, SupplementRequest, WrittenSupplement};
use crate::transfer::export::reuse::Earlier;
use crate::transfer::sources::{Repository, Sources};

/// Fetches the blobs of a want-list and writes them into one file or pipe.
/// The blobs come from earlier bundles or from the registries of their images. Nothing is written unless all blobs are
/// available, or the request allows that some are missing and one is available.
///
/// # Errors
/// [`Kind::NotFound`], with the lines of the list, if registries no longer have some blobs; otherwise the errors of an
/// export.
pub async fn supplement(
    list: &WantList,
    request: SupplementRequest,
    registries: &Registries,
    progress: &Progress,
) -> Result<WrittenSupplement> {
    let is_plain = request.compression == Compression::None;
    if let Output::File { path, force, .. } = &request.output {
        occupied::check(path, *force, &request.list).await?;
    }
    let target = match &request.output {
        Output::File { path, force, fresh } if !is_plain => Some((Unfinished::create(path, *fresh, progress)?, *force)),
        _ => None,
    };
    let earlier = Earlier::open(&request.reuse, None).await?;
    let wanted = Wanted::find(list, &request, registries, &earlier).await?;
    if let Some(error) = wanted.error(&request.list) {
        match request.allow_partial && wanted.are_gone() && !wanted.blobs.is_empty() {
            true => progress.warn(error.to_string()),
            false => return Err(error),
        }
    }
    let Wanted {
        blobs,
        known,
        sources,
        identity,
        missing,
    } = wanted;
    let missing = missing.len();
    let plan = Plan::from_blobs(blobs)?;
    if let (Output::File { path, force, fresh }, true) = (&request.output, is_plain) {
        let file = SupplementFile {
            identity: (Digest::sha256(identity.as_bytes()), "a want-list".to_owned()),
            plan,
            known,
            sources: Sources::from_blobs(sources),
            earlier,
            jobs: request.jobs.max(1),
        };
        let (reused, sha256) = file.write(path, (*force, *fresh), progress).await?;
        return Ok(WrittenSupplement {
            reused,
            sha256,
            missing,
        });
    }
    progress.emit(plan.planned(0, &HashMap::new()));
    let partial = target.as_ref().map(|(unfinished, _)| &unfinished.partial);
    if let Some(partial) = partial {
        partial.reserve(plan.total(), &partial.file_system()?, human_bytes)?;
    }
    let prefetcher = Prefetcher {
        sources: Sources::from_blobs(sources),
        earlier,
        known,
        jobs: request.jobs.max(1),
        read_ahead: request.read_ahead,
        progress: progress.clone(),
        ..Prefetcher::default()
    };
    let (reused, sha256) = prefetcher
        .write(&plan, request.output, partial, request.compression)
        .await?;
    if let Some((unfinished, force)) = target {
        unfinished.commit(force).await?;
    }
    Ok(WrittenSupplement {
        reused,
        sha256,
        missing,
    })
}

/// The blobs of a want-list, as far as registries and earlier bundles have them.
#[derive(Default)]
struct Wanted {
    blobs: Vec<Descriptor>,
    /// Bytes of the blobs that were read as manifests.
    known: BTreeMap<Digest, Bytes>,
    sources: Vec<(Digest, Repository)>,
    /// Text that is the same for two exports with the same plan.
    identity: String,
    /// Errors of the blobs that were not found, with their lines.
    missing: Vec<Error>,
}

impl Wanted {
    async fn find(
        list: &WantList,
        request: &SupplementRequest,
        registries: &Registries,
        earlier: &Earlier,
    ) -> Result<Self> {
        let (mut look, mut sources) = (Vec::new(), Vec::new());
        for wanted in list.blobs() {
            let repository = Repository::new(&wanted.reference, registries)?;
            sources.push((wanted.digest.clone(), repository.clone()));
            look.push(find(wanted, repository, earlier));
        }
        let found: Vec<Result<Found>> = stream::iter(look).buffered(request.jobs.max(1)).collect().await;
        let mut all = Self {
            sources,
            identity: list.to_text(),
            ..Self::default()
        };
        for (wanted, found) in list.blobs().zip(found) {
            match found {
                Ok(Found::Blob(blob)) => all.blobs.push(blob),
                Ok(Found::Manifest(manifest)) => {
                    all.blobs.push(manifest.descriptor().clone());
                    all.known.insert(manifest.digest().clone(), manifest.bytes().clone());
                }
                Err(error) => {
                    let line = list.line_of(&wanted.digest).unwrap_or_default();
                    // A list that is exported without some blobs has another plan than the whole list, so an unfinished
                    // file is not its own.
                    let _ = writeln!(all.identity, "without line {line}");
                    all.missing.push(error.context(format!("line {line}")));
                }
            }
        }
        Ok(all)
    }

    /// Returns one error for all missing blobs of the list at `path`.
    fn error(&self, path: &Path) -> Option<Error> {
        let first = self.missing.first()?;
        let all = few_with(self.missing.iter().map(Error::full), "; ");
        let error = Error::new(first.kind(), format!("`{}`: {all}", quote(path)));
        Some(match first.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }

    /// Returns whether all missing blobs no longer exist, which another attempt does not change.
    fn are_gone(&self) -> bool {
        self.missing.iter().all(|error| error.kind() == Kind::NotFound)
    }
}

/// A wanted digest, by the kind of its source.
enum Found {
    /// A blob of a registry or of an earlier bundle.
    Blob(Descriptor),
    /// A manifest, which a registry does not serve as a blob.
    Manifest(Box<RawManifest>),
}

/// Finds the kind of source that has a wanted digest.
async fn find(wanted: &WantedBlob, repository: Repository, earlier: &Earlier) -> Result<Found> {
    let digest = &wanted.digest;
    if let Some(size) = wanted.size.or_else(|| earlier.size_of(digest)) {
        let blob = Descriptor {
            media_type: Default::default(),
            digest: digest.clone(),
            size,
        };
        let is_at_hand = earlier.find(&blob).is_some() || size > MAX_MANIFEST;
        let registry = &repository.registry;
        if is_at_hand
            || matches!(
                registry.head_blob(&repository.name, &blob).await?,
                Presence::Present(())
            )
        {
            return Ok(Found::Blob(blob));
        }
    }
    let target = Target::Digest(digest.clone());
    match repository.registry.manifest(&repository.name, &target).await {
        Ok(manifest) if wanted.size.is_none_or(|size| size == manifest.descriptor().size) => {
            Ok(Found::Manifest(Box::new(manifest)))
        }
        Ok(manifest) => {
            let (found, stated) = (manifest.descriptor().size, wanted.size.unwrap_or_default());
            let what = format!("{digest} has {}, and the list states {stated}", byte_count(found));
            Err(Error::new(Kind::Integrity, what).with_hint("compare the line with the original"))
        }
        Err(error) if error.kind() == Kind::NotFound => {
            let what = format!("`{}` no longer has {digest}", wanted.reference.name());
            Err(Error::new(Kind::NotFound, what).with_hint(
                "take it from an earlier bundle with `--reuse`, or fetch the others with `--allow-partial`; no registry has an index \
                 that was made smaller when the bundle was written: export that image again",
            ))
        }
        Err(error) => Err(error),
    }
}
