//! Archives in Docker's own format, as `docker save` and `podman save` write them: `manifest.json` with configs and layers.

pub(super) mod builder;
pub(super) mod items;
pub(super) mod layer;
pub(super) mod member;
pub(super) mod rebuild;
