//! Why: NDJSON input, cut into batches of whole lines; a line's number is its offset. Never parses a line.

use std::{collections::VecDeque, path::PathBuf, pin::Pin};

use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt},
};

use super::CliError;
use crate::limits;

const READ_BYTES: usize = 256 << 10;
const BATCH_RECORDS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

/// Whole lines, at most 1,000 and about 1 MiB of them.
#[derive(Debug, Clone)]
pub struct Lines {
    /// The offset of the first.
    pub first_offset: u64,
    /// How many.
    pub count: u64,
    /// The lines, a newline after each.
    pub bytes: Bytes,
}

impl Lines {
    /// Without the lines before `offset`; `None` if nothing is left.
    pub fn without_before(self, offset: u64) -> Option<Self> {
        if offset <= self.first_offset {
            return Some(self);
        }
        let skip = offset - self.first_offset;
        if skip >= self.count {
            return None;
        }
        let mut at = 0;
        for _ in 0..skip {
            // Every line of a batch ends with a newline.
            at += self.bytes[at..].iter().position(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        }
        Some(Self { first_offset: offset, count: self.count - skip, bytes: self.bytes.slice(at..) })
    }
}

/// Files (or standard input) read one after another as one sequence of lines. Blank lines are no records.
pub struct Source {
    waiting: VecDeque<PathBuf>,
    current: Option<Pin<Box<dyn AsyncRead + Send>>>,
    buffer: BytesMut,
    next_offset: u64,
}

impl Source {
    /// Reads `paths` in order; `-` is standard input.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { waiting: paths.into(), current: None, buffer: BytesMut::new(), next_offset: 0 }
    }

    /// The next lines, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Lines>, CliError> {
        let mut out = BytesMut::new();
        let mut count = 0;
        loop {
            while count < BATCH_RECORDS && out.len() < BATCH_BYTES {
                let Some(newline) = self.buffer.iter().position(|byte| *byte == b'\n') else { break };
                let line = self.buffer.split_to(newline + 1);
                if !line.trim_ascii().is_empty() {
                    out.extend_from_slice(&line);
                    count += 1;
                }
            }
            let full = count >= BATCH_RECORDS || out.len() >= BATCH_BYTES;
            // A slow source must not hold back lines that are there.
            if full || !self.fill(count > 0).await? {
                if count == 0 {
                    return Ok(None);
                }
                let lines = Lines { first_offset: self.next_offset, count: count as u64, bytes: out.freeze() };
                self.next_offset += lines.count;
                return Ok(Some(lines));
            }
        }
    }

    /// Reads more into the buffer; `false` at the end of everything, or when `only_ready` and nothing is there at once.
    async fn fill(&mut self, only_ready: bool) -> Result<bool, CliError> {
        loop {
            let Some(reader) = &mut self.current else {
                let Some(path) = self.waiting.pop_front() else { return Ok(false) };
                self.current = Some(if path.as_os_str() == "-" {
                    Box::pin(tokio::io::stdin())
                } else {
                    Box::pin(File::open(&path).await.map_err(|fault| CliError::Usage(format!("cannot read {}: {fault}", path.display())))?)
                });
                continue;
            };
            self.buffer.reserve(READ_BYTES);
            let read = reader.read_buf(&mut self.buffer);
            let read = if only_ready {
                match tokio::time::timeout(std::time::Duration::from_millis(20), read).await {
                    Ok(read) => read,
                    Err(_) => return Ok(false),
                }
            } else {
                read.await
            };
            match read.map_err(|fault| CliError::Local(format!("the input cannot be read further: {fault}")))? {
                0 => {
                    self.current = None;
                    // The last line of a file may lack its newline.
                    if !self.buffer.is_empty() {
                        self.buffer.extend_from_slice(b"\n");
                        return Ok(true);
                    }
                }
                _ if self.buffer.len() > limits::RECORD_BYTES_MAX + READ_BYTES && !self.buffer.contains(&b'\n') => {
                    return Err(CliError::Usage(format!("record {} is larger than {} bytes", self.next_offset, limits::RECORD_BYTES_MAX)));
                }
                _ => return Ok(true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Vec<Lines> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut source = Source::new(vec![file.path().to_owned()]);
        let mut all = Vec::new();
        while let Some(lines) = source.next().await.unwrap() {
            all.push(lines);
        }
        all
    }

    #[tokio::test]
    async fn lines_are_numbered_without_blank_ones_and_the_last_needs_no_newline() {
        let all = read("{\"a\":1}\n\n{\"a\":2}\r\n{\"a\":3}").await;
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].first_offset, all[0].count), (0, 3));
        assert_eq!(&all[0].bytes[..], b"{\"a\":1}\n{\"a\":2}\r\n{\"a\":3}\n");
    }

    #[tokio::test]
    async fn batches_follow_one_another_and_can_be_cut() {
        let text: String = (0..2_500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let all = read(&text).await;
        assert_eq!(all.iter().map(|lines| lines.count).sum::<u64>(), 2_500);
        assert!(all.windows(2).all(|pair| pair[0].first_offset + pair[0].count == pair[1].first_offset));
        let cut = all[0].clone().without_before(2).unwrap();
        assert!(cut.bytes.starts_with(b"{\"n\":2}\n"));
        assert_eq!(cut.count, all[0].count - 2);
        assert!(all[0].clone().without_before(1_000).is_none());
    }
}
