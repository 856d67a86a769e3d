//! Packs the catalog of models, since it would be 410 KB of the program as it is, and is 85 KB packed: the providers with
//! the ids of their models as they are, a line of JSON each, and the models of each provider compressed on their own, so
//! that the program can look into one provider without unpacking all.

use flate2::Compression;
use flate2::write::DeflateEncoder;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

fn main() -> io::Result<()> {
    let source = "src/model/catalog.json";
    println!("cargo::rerun-if-changed={source}");
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is missing"))?;
    let (providers, packed) = pack(&fs::read_to_string(source)?)?;
    fs::write(Path::new(&out).join("providers.jsonl"), providers)?;
    fs::write(Path::new(&out).join("models.deflate"), packed)
}

/// The catalog is read by its lines: one per provider, `"ID": {FIELDS,"models":[`, then one per model, and `]}` at the
/// end. What the lines hold is looked at by the program's tests.
fn pack(catalog: &str) -> io::Result<(String, Vec<u8>)> {
    let unknown = |line: &str| io::Error::other(format!("the catalog has a line of unknown form: {line}"));
    let (mut providers, mut packed) = (String::new(), Vec::new());
    let mut lines = catalog.lines().filter(|line| !matches!(*line, "{" | "}"));
    while let Some(line) = lines.next() {
        let head = line.strip_suffix("\"models\":[").and_then(|head| head.split_once(": {"));
        let (id, fields) = head.ok_or_else(|| unknown(line))?;
        let (start, mut ids) = (packed.len(), Vec::new());
        let mut packer = DeflateEncoder::new(&mut packed, Compression::best());
        for line in lines.by_ref().take_while(|line| !line.starts_with(']')) {
            let model = line.trim_start().trim_end_matches(',');
            let id = model.strip_prefix("{\"id\":\"").and_then(|rest| rest.split('"').next());
            ids.push(id.filter(|id| !id.contains([' ', '\\'])).ok_or_else(|| unknown(line))?);
            writeln!(packer, "{model}")?;
        }
        packer.finish()?;
        let (end, ids) = (packed.len(), ids.join(" "));
        providers.push_str(&format!("{{\"id\":{id},{fields}\"packed\":[{start},{end}],\"models\":\"{ids}\"}}\n"));
    }
    Ok((providers, packed))
}
