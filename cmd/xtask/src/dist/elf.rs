//! Is a program static? By its ELF headers (System V ABI, chapters 4 and 5; 64-bit, little-endian).

use anyhow::{Context as _, Result, bail, ensure};

const ET_DYN: u16 = 3;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_PIE: u64 = 0x0800_0000;

fn bytes<const N: usize>(file: &[u8], at: u64) -> Result<[u8; N]> {
    let at = usize::try_from(at)?;
    let end = at.checked_add(N).context("an offset is out of range")?;
    Ok(file.get(at..end).context("the file is cut off")?.try_into()?)
}

fn half(file: &[u8], at: u64) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(file, at)?))
}

fn word(file: &[u8], at: u64) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(file, at)?))
}

fn xword(file: &[u8], at: u64) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(file, at)?))
}

/// Fails unless `file` is a static position-independent executable: no interpreter, no needed libraries, so that it runs on
/// every kernel of its architecture whatever is installed there.
pub(super) fn check_static_pie(file: &[u8]) -> Result<()> {
    ensure!(file.get(..6) == Some(b"\x7fELF\x02\x01"), "it is no 64-bit little-endian ELF file");
    ensure!(half(file, 16)? == ET_DYN, "it is not position-independent");
    let (table, size, count) = (xword(file, 32)?, u64::from(half(file, 54)?), u64::from(half(file, 56)?));
    let mut flags = 0;
    for n in 0..count {
        let header = table.checked_add(n * size).context("an offset is out of range")?;
        match word(file, header)? {
            PT_INTERP => bail!("it names an interpreter: it is not static"),
            PT_DYNAMIC => {
                let (mut at, length) = (xword(file, header + 8)?, xword(file, header + 32)?);
                let end = at.checked_add(length).context("an offset is out of range")?;
                while at < end {
                    match (xword(file, at)?, xword(file, at + 8)?) {
                        (DT_NULL, _) => break,
                        (DT_NEEDED, _) => bail!("it needs a shared library: it is not static"),
                        (DT_FLAGS_1, value) => flags = value,
                        _ => {}
                    }
                    at += 16;
                }
            }
            _ => {}
        }
    }
    ensure!(flags & DF_1_PIE != 0, "it is a library, or not position-independent");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one program header, and a dynamic section of `entries`.
    fn elf(kind: u16, segment: u32, entries: &[(u64, u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64 + 56, 0);
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&segment.to_le_bytes());
        file[72..80].copy_from_slice(&120u64.to_le_bytes());
        file[96..104].copy_from_slice(&(entries.len() as u64 * 16).to_le_bytes());
        for (tag, value) in entries {
            file.extend(tag.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        file
    }

    #[test]
    fn only_a_static_pie_passes() {
        let pie = [(DT_FLAGS_1, DF_1_PIE), (DT_NULL, 0)];
        check_static_pie(&elf(ET_DYN, PT_DYNAMIC, &pie)).unwrap();
        for (what, file) in [
            ("interpreter", elf(ET_DYN, PT_INTERP, &[])),
            ("shared library", elf(ET_DYN, PT_DYNAMIC, &[(DT_NEEDED, 1), pie[0]])),
            ("position-independent", elf(2, PT_DYNAMIC, &pie)),
            ("is a library", elf(ET_DYN, PT_DYNAMIC, &[(DT_NULL, 0), pie[0]])),
            ("cut off", elf(ET_DYN, PT_DYNAMIC, &pie)[..130].to_vec()),
            ("no 64-bit", b"#!/bin/sh".to_vec()),
        ] {
            let error = check_static_pie(&file).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
    }

    /// This test's own program is linked dynamically.
    #[test]
    fn a_dynamic_program_is_refused() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(check_static_pie(&own).is_err());
    }
}
