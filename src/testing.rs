//! Names that tests need in addition to the public names of the library. Not part of the public interface.

use std::sync::Arc;

use crate::bundle::read::Bundle;
use crate::bundle::read::stream::pipe::Incoming;
use crate::error::Result;
use crate::progress::Progress;
use crate::registry::Registries;
use crate::transfer::bundle_blobs::{BundleBlobs, PipeBlobs};
use crate::transfer::mirror::registry_blobs::RegistryBlobs;
use crate::transfer::push::pipe::feed::PipeFeed;
use crate::transfer::push::request::PushRequest;

pub use crate::bundle::file_system::FileSystem;
pub use crate::bundle::plan::{Extras, Plan};
pub use crate::bundle::read::BundledImage;
pub use crate::bundle::record::{MAX_SIZE, Missing};
pub use crate::image::descriptor::Descriptor;
pub use crate::image::digest::{Algorithm, Hasher};
pub use crate::image::manifest::{RawManifest, View};
pub use crate::image::media_type;
pub use crate::image::reference::Target;
pub use crate::image::tree::{ImageTree, Variant};
pub use crate::registry::credentials::{Credential, Credentials, FileFormat, Found};
pub use crate::registry::tls::client_config;
pub use crate::registry::{
    AcceptedManifest, BlobReader, BlobSource, BlobStream, Presence, Pushed, Referrers, Refusal, Registry, WithoutRange,
};

/// The blobs of a bundle, as an import reads them.
pub fn bundle_blobs(bundle: Arc<Bundle>) -> Arc<dyn BlobSource> {
    Arc::new(BundleBlobs(bundle.blobs()))
}

/// The blobs of images in registries, as a one-step mirror reads them.
pub fn registry_blobs(trees: &[ImageTree], registries: &Registries) -> Result<Arc<dyn BlobSource>> {
    Ok(Arc::new(RegistryBlobs::new(trees, registries)?))
}

/// Serves a blob of a bundle in a pipe while the bundle arrives, as an import does.
///
/// The blob can be read as long as the first returned value lives.
pub async fn pipe_blobs(
    front: Arc<Bundle>,
    rest: Incoming,
    blob: &Descriptor,
) -> Result<(impl Sized, Arc<dyn BlobSource>)> {
    let mut feed = PipeFeed::new(front.blobs(), rest);
    let request = PushRequest::new("registry.example".parse()?);
    feed.start(std::iter::once((blob, 1)), &request, &Progress::silent())?;
    let blobs = Arc::new(PipeBlobs::new(front.blobs(), &feed));
    feed.next().await;
    Ok((feed, blobs))
}
