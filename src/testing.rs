//! What tests need beside the names of the library. No part of its interface.

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
pub use crate::registry::{BlobReader, BlobSource, BlobStream, Presence, Pushed, Refusal, Registry, WithoutRange};
