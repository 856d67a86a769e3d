//! The only `unsafe` code of the crate: calls into the C library that no safe wrapper offers.
#![allow(unsafe_code)]
