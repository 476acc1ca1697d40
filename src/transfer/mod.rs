//! The operations. Stub.
