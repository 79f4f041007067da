//! Why: one file that any engine and any later version can read: everything of one point in time, counted and hashed. Never partly there.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{StoreError, Table};
use crate::limits;

const MAGIC: &[u8; 20] = b"datasink export v1\n\0";
const END: u16 = u16::MAX;

/// A row of an export: table, key, value.
pub(super) type Row = (Table, Vec<u8>, bytes::Bytes);

/// Writes the rows beside `to`, syncs, and renames; returns how many.
pub(super) fn write(to: &Path, rows: impl Iterator<Item = Result<Row, StoreError>>) -> Result<u64, StoreError> {
    let mut name = to.file_name().ok_or_else(|| StoreError::Unavailable(format!("{} is not a file", to.display())))?.to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    let fault = |fault: io::Error| StoreError::Unavailable(format!("{} cannot be written ({fault})", to.display()));
    let mut out = Hashing { inner: BufWriter::new(File::create(&part).map_err(fault)?), hash: Sha256::new() };
    out.write_all(MAGIC).map_err(fault)?;
    let mut count = 0_u64;
    for row in rows {
        let (table, key, value) = row?;
        write_row(&mut out, table, &key, &value).map_err(fault)?;
        count += 1;
    }
    out.write_all(&END.to_be_bytes()).and_then(|()| out.write_all(&count.to_be_bytes())).map_err(fault)?;
    let hash = out.hash.finalize();
    let mut file = out.inner;
    file.write_all(&hash).and_then(|()| file.flush()).and_then(|()| file.get_ref().sync_all()).map_err(fault)?;
    fs::rename(&part, to).map_err(fault)?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fault)?;
    Ok(count)
}

fn write_row(out: &mut impl Write, table: Table, key: &[u8], value: &[u8]) -> io::Result<()> {
    out.write_all(&u16::try_from(table.name.len()).map_err(io::Error::other)?.to_be_bytes())?;
    out.write_all(table.name.as_bytes())?;
    out.write_all(&[u8::from(table.verified_at_open)])?;
    for part in [key, value] {
        out.write_all(&u32::try_from(part.len()).map_err(io::Error::other)?.to_be_bytes())?;
        out.write_all(part)?;
    }
    Ok(())
}

/// Reads and checks a whole export before anything of it is used.
pub(super) fn read(from: &Path) -> Result<Vec<Row>, StoreError> {
    let fault = |fault: io::Error| StoreError::Corrupt(format!("{} is not a whole export ({fault})", from.display()));
    let mut input = Hashing { inner: BufReader::new(File::open(from).map_err(fault)?), hash: Sha256::new() };
    if array::<20>(&mut input).map_err(fault)? != *MAGIC {
        return Err(StoreError::Corrupt(format!("{} is not an export of a version that this program knows", from.display())));
    }
    let mut rows = Vec::new();
    loop {
        let length = u16::from_be_bytes(array(&mut input).map_err(fault)?);
        if length == END {
            break;
        }
        let name = bytes(&mut input, usize::from(length)).map_err(fault)?;
        let [verified_at_open] = array(&mut input).map_err(fault)?;
        let name = std::str::from_utf8(&name).map_err(|_| fault(io::Error::other("a table's name is not text")))?;
        let table = Table::named(name, verified_at_open == 1);
        let mut part = || -> io::Result<Vec<u8>> {
            let length = u32::from_be_bytes(array(&mut input)?);
            bytes(&mut input, usize::try_from(length).map_err(io::Error::other)?)
        };
        rows.push((table, part().map_err(fault)?, part().map_err(fault)?.into()));
    }
    let count = u64::from_be_bytes(array(&mut input).map_err(fault)?);
    let hash = input.hash.clone().finalize();
    if array::<32>(&mut input.inner).map_err(fault)? != hash.as_slice() || count != rows.len() as u64 {
        return Err(StoreError::Corrupt(format!("{} was changed after it was written: its hash or its count is wrong", from.display())));
    }
    Ok(rows)
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn bytes(input: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    if length > limits::STORE_ENTRY_BYTES_MAX {
        return Err(io::Error::other("a length is beyond every limit"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.hash.update(&bytes[..read]);
        Ok(read)
    }
}
