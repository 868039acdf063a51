//! Looks at the first bytes of an upload before anything else reads it.
//!
//! A qcow2 may name other files of the host it is opened on (backing file, external data file), and
//! raw bytes may pose as a qcow2; both are refused here. Format: QEMU `docs/interop/qcow2.txt`.

use basalt_model::{CapabilityReason, images::ImageFormat};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

/// Checks that a file is what its format says; gives the size that a guest sees, in bytes.
pub fn inspect(file: &mut File, format: ImageFormat, size_bytes: u64) -> std::io::Result<Verdict> {
    let mut head = vec![0; 512];
    file.seek(SeekFrom::Start(0))?;
    let read = read_up_to(file, &mut head)?;
    head.truncate(read);
    Ok(match format {
        ImageFormat::Qcow2 => qcow2(&head, size_bytes),
        ImageFormat::Raw => raw(&head, size_bytes),
        ImageFormat::Iso => iso(file, size_bytes)?,
    })
}

/// The virtual size in bytes, or why the image is refused.
pub type Verdict = Result<u64, CapabilityReason>;

fn refuse(code: &'static str, message: String, remedy: &str) -> Verdict {
    Err(CapabilityReason::new(code, "spec.format", message, remedy))
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

fn be(head: &[u8], at: usize, len: usize) -> u64 {
    head.iter().skip(at).take(len).fold(0, |n, b| (n << 8) | u64::from(*b))
}

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";

fn qcow2(head: &[u8], size_bytes: u64) -> Verdict {
    if head.len() < 104 || !head.starts_with(QCOW2_MAGIC) {
        return refuse(
            "not_qcow2",
            "the bytes do not begin as a qcow2 image".into(),
            "upload a qcow2 file, or declare the image with the format it has",
        );
    }
    let version = be(head, 4, 4);
    if !(2..=3).contains(&version) {
        return refuse(
            "qcow2_version",
            format!("qcow2 version {version} is not known"),
            "convert it with qemu-img convert -O qcow2",
        );
    }
    if be(head, 8, 8) != 0 {
        return refuse(
            "backing_file",
            "the image names a backing file".into(),
            "flatten it with qemu-img convert -O qcow2",
        );
    }
    let incompatible = if version == 3 { be(head, 72, 8) } else { 0 };
    // Bit 0 dirty, 1 corrupt, 2 external data file, 3 compression type, 4 extended L2.
    if incompatible & 0b100 != 0 {
        return refuse(
            "external_data_file",
            "the image keeps its data in another file".into(),
            "flatten it with qemu-img convert -O qcow2",
        );
    }
    if incompatible & !0b1000 != 0 {
        return refuse(
            "qcow2_features",
            format!("the image is dirty, corrupt or uses features that are not allowed ({incompatible:#x})"),
            "repair and flatten it with qemu-img convert -O qcow2",
        );
    }
    if be(head, 32, 4) != 0 {
        return refuse("encrypted", "the image is encrypted".into(), "upload it decrypted");
    }
    let (virtual_size, l1_size, l1_offset) = (be(head, 24, 8), be(head, 36, 4), be(head, 40, 8));
    let cluster_bits = be(head, 20, 4);
    let sound = (9..=21).contains(&cluster_bits) && virtual_size > 0 && l1_size <= 32 * 1024 * 1024 / 8;
    if !sound {
        return refuse("qcow2_header", "the header has impossible sizes".into(), "make the image anew");
    }
    if l1_offset.saturating_add(l1_size * 8) > size_bytes || be(head, 48, 8) >= size_bytes {
        return refuse(
            "truncated",
            format!("the image's tables lie beyond its {size_bytes} bytes"),
            "upload the whole file; compare its length with spec.size_bytes",
        );
    }
    Ok(virtual_size)
}

fn raw(head: &[u8], size_bytes: u64) -> Verdict {
    let poses = [
        (QCOW2_MAGIC, "qcow2"),
        (b"KDMV".as_slice(), "VMDK"),
        (b"# Disk DescriptorFile".as_slice(), "VMDK"),
        (b"vhdxfile".as_slice(), "VHDX"),
        (b"conectix".as_slice(), "VHD"),
    ];
    match poses.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, name)) => refuse(
            "not_raw",
            format!("the bytes begin as a {name} image"),
            "declare the image as what it is, or convert it with qemu-img convert -O raw",
        ),
        None => Ok(size_bytes),
    }
}

fn iso(file: &mut File, size_bytes: u64) -> std::io::Result<Verdict> {
    let mut magic = [0; 6];
    file.seek(SeekFrom::Start(32768))?;
    let read = read_up_to(file, &mut magic)?;
    if read == 6 && &magic[1..] == b"CD001" {
        return Ok(Ok(size_bytes));
    }
    Ok(refuse("not_iso", "the bytes are no ISO 9660 disc".into(), "upload an ISO file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut h = vec![0u8; 512];
        h[..4].copy_from_slice(QCOW2_MAGIC);
        h[7] = 3;
        h[23] = 16;
        h[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        h[39] = 2;
        h[40..48].copy_from_slice(&0x3_0000u64.to_be_bytes());
        h[48..56].copy_from_slice(&0x1_0000u64.to_be_bytes());
        change(&mut h);
        h
    }

    #[test]
    fn hostile_headers_are_refused_by_name() {
        assert_eq!(qcow2(&header(|_| {}), 1 << 20), Ok(1 << 30));
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change); 7] = [
            ("backing_file", |h| h[15] = 104),
            ("external_data_file", |h| h[79] = 0b100),
            ("qcow2_features", |h| h[79] = 0b10),
            ("encrypted", |h| h[35] = 2),
            ("qcow2_version", |h| h[7] = 9),
            ("not_qcow2", |h| h[0] = 0),
            ("truncated", |h| h[40] = 1),
        ];
        for (code, change) in cases {
            assert_eq!(qcow2(&header(change), 1 << 20).unwrap_err().code, code);
        }
        assert_eq!(qcow2(&header(|_| {}), 1000).unwrap_err().code, "truncated");
        assert_eq!(raw(&header(|_| {}), 512).unwrap_err().code, "not_raw");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head in proptest::collection::vec(any::<u8>(), 0..512), size in any::<u64>()) {
            let _ = qcow2(&head, size);
            let mut posing = header(|_| {});
            for (i, b) in head.iter().enumerate().skip(8) { posing[i] = *b; }
            let _ = qcow2(&posing, size);
            let _ = raw(&head, size);
        }
    }
}
