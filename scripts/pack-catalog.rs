//! Packs the catalog of models, since it would be 200 KB of the program as it is, and is 15 KB packed.

use flate2::Compression;
use flate2::write::DeflateEncoder;
use std::env;
use std::fs::File;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let source = "src/model/catalog.jsonl";
    println!("cargo::rerun-if-changed={source}");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is missing"))?;
    let packed = File::create(Path::new(&out).join("catalog.deflate"))?;
    let mut packer = DeflateEncoder::new(packed, Compression::best());
    io::copy(&mut File::open(source)?, &mut packer)?;
    packer.finish()?;
    Ok(())
}
