//! Mirrors container images: from registries into one file, from that file into a registry, or directly between registries.
//!
//! The central type is the image tree: a reference, its root descriptor, the raw manifests below the root, and the
//! descriptors of the blobs that these manifests name. Trees come from a registry or from a bundle, and go into a bundle
//! or a registry.
//!
//! The library never prints, never exits and never reads the environment on its own: its arguments decide what it does.
//! Operations emit events through [`Progress`] and return a report.
//!
//! The program uses only the names below.

mod bundle;
mod error;
mod files;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod image;
mod inventory;
mod lock;
mod progress;
mod registry;
#[doc(hidden)]
pub mod testing;
mod text;
mod transfer;

pub use bundle::read::name_override::{GivenName, Which};
pub use bundle::read::stream::pipe::Incoming;
pub use bundle::read::summed::VerifiedFile;
pub use bundle::read::verify::{Checked, Fault, FaultKind, Verification, VerifyOptions, verify};
pub use bundle::read::{Bundle, OpenOptions};
pub use bundle::record::Missing;
pub use error::{Error, Kind, Result, Side, missing_path_hint};
pub use files::encoding::utf8 as text_as_utf8;
pub use files::{SpecialWriter, check_special, open_or_create_own, open_regular, parent_of, read_named, wait_for_pipe};
pub use image::budget::Budget;
pub use image::destination::Destination;
pub use image::digest::Digest;
pub use image::image_list::{CheckedList, ImageList, MAX_LIST, Rename};
pub use image::platform::PlatformFilter;
pub use image::reference::{DOCKER_HUB, Reference};
pub use image::tree::{Choice, IndexMode, LeftOut, PlatformRecord};
pub use image::tree::{counts_in_words, platform_counts, platform_list, platforms_alone};
pub use inventory::details::Details;
pub use inventory::difference::{Amount as PieceAmount, ChangedImage, Difference, ImageState};
pub use inventory::images::{Absent, Content, Inventory, InventoryImage, Part, Piece, Unusable, missing_in_words};
pub use inventory::lock::{Lock, MAX_LOCK};
pub use inventory::locked_image::LockedImage;
pub use inventory::locked_referrer::LockedReferrer;
pub use inventory::referrer_difference::{ChangedReferrer, ReferrerState};
pub use inventory::sharing::{Sharing, Totals};
pub use inventory::want_list::{MAX_WANT_LIST, WantList, WantedBlob};
pub use progress::{Event, Phase, Progress, human_bytes, human_duration};
pub use registry::credentials::{CredentialFile, CredentialOptions, HostLogin, Login, Secret};
pub use registry::mirrors::{Mirrors, parse_mirror};
pub use registry::proxy::Proxies;
pub use registry::tls::{Authorities, ClientCertificate, SystemAuthorities, TlsOptions};
pub use registry::{MOST_JOBS, Options, RateLimit, Registries, Stop, is_full as is_registry_full};
pub use text::{LISTED, Line, counted, few, few_with, is_unsafe, quote};
pub use transfer::inspect::inspect;
pub use transfer::referrers::ReferrerChoice;
pub use transfer::resolve::{LOST_MANIFEST, Resolver, Wanted};
pub use transfer::tags::{Asked, Expanded, expand};
pub use transfer::{export, import, mirror, push};
