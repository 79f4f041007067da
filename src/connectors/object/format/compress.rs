//! Why: text becomes an object's bytes, compressed as a whole, in pieces that do not depend on who wrote how much at once. Never holds more than one piece and the compressor's window.

use std::io::{self, Write};

use bytes::{BufMut, Bytes, BytesMut, buf::Writer};
use flate2::{GzBuilder, write::GzEncoder};
use snap::write::FrameEncoder;

use super::{Compression, internal, some};
use crate::connectors::error::ConnectorError;

/// How much a compressor is given at once. Always the same, so that its output cannot depend on how records came; also the most that one block of Snappy's framing format takes.
const PIECE_BYTES: usize = 64 << 10;
/// The least text that is worth sharing: an object of many small pieces costs more to send than to copy.
const SHARED_BYTES_MIN: usize = 16 << 10;
/// Of gzip: level 6 reaches 30 MiB/s, which is below the network.
pub(super) const GZIP_LEVEL: u32 = 1;
/// Of Zstandard: level 3 is three times slower for a few per cent.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// Where finished bytes wait to be taken.
pub(super) type Out = Writer<BytesMut>;

/// An empty one.
pub(super) fn out() -> Out {
    BytesMut::new().writer()
}

/// Compresses a text that is written to it.
pub(super) struct Text {
    compressor: Compressor,
    /// Less than a piece, for the compressor; always empty without one.
    waiting: Vec<u8>,
    /// Bytes taken so far.
    taken: u64,
}

enum Compressor {
    None(Plain),
    Gzip(GzEncoder<Out>),
    Zstd(zstd::stream::write::Encoder<'static, Out>),
    Snappy(Box<FrameEncoder<Out>>),
}

/// Text that stays as it is: what was shared with us, and after it what was copied.
#[derive(Default)]
struct Plain {
    shared: Vec<Bytes>,
    shared_bytes: usize,
    copied: BytesMut,
}

impl Plain {
    fn share(&mut self, text: Bytes) {
        let copied = self.copied.split().freeze();
        self.shared_bytes += copied.len() + text.len();
        self.shared.extend([copied, text].into_iter().filter(|bytes| !bytes.is_empty()));
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.share(Bytes::new());
        self.shared_bytes = 0;
        std::mem::take(&mut self.shared)
    }
}

impl Text {
    pub(super) fn new(compression: Compression) -> Result<Self, ConnectorError> {
        let compressor = match compression {
            Compression::None => Compressor::None(Plain::default()),
            // Neither time nor operating system in the header: the same records are to give the same bytes.
            Compression::Gzip => Compressor::Gzip(GzBuilder::new().mtime(0).operating_system(255).write(out(), flate2::Compression::new(GZIP_LEVEL))),
            Compression::Zstd => Compressor::Zstd(zstd_encoder().map_err(|error| internal("start zstd", error))?),
            Compression::Snappy => Compressor::Snappy(Box::new(FrameEncoder::new(out()))),
        };
        Ok(Self { compressor, waiting: Vec::new(), taken: 0 })
    }

    /// Makes room for so many bytes of text, that they be copied once.
    pub(super) fn reserve(&mut self, bytes: usize) {
        match &mut self.compressor {
            Compressor::None(plain) => plain.copied.reserve(bytes),
            _ => self.waiting.reserve(PIECE_BYTES.min(bytes)),
        }
    }

    /// Adds text that somebody else holds as well: without a copy where it stays as it is.
    pub(super) fn share(&mut self, text: Bytes) -> Result<(), ConnectorError> {
        match &mut self.compressor {
            Compressor::None(plain) if text.len() >= SHARED_BYTES_MIN => {
                plain.share(text);
                Ok(())
            }
            _ => self.write(&text),
        }
    }

    /// Adds text.
    #[inline]
    pub(super) fn write(&mut self, text: &[u8]) -> Result<(), ConnectorError> {
        if let Compressor::None(plain) = &mut self.compressor {
            plain.copied.extend_from_slice(text);
            return Ok(());
        }
        for part in text.chunks(PIECE_BYTES) {
            self.waiting.extend_from_slice(part);
            if self.waiting.len() >= PIECE_BYTES {
                self.feed()?;
            }
        }
        Ok(())
    }

    /// Gives the compressor every whole piece that waits.
    fn feed(&mut self) -> Result<(), ConnectorError> {
        let whole = self.waiting.len() - self.waiting.len() % PIECE_BYTES;
        for piece in self.waiting[..whole].chunks(PIECE_BYTES) {
            self.compressor.write_all(piece).map_err(|error| internal("compress an object", error))?;
        }
        self.waiting.drain(..whole);
        Ok(())
    }

    pub(super) fn take(&mut self) -> Vec<Bytes> {
        let chunks = match &mut self.compressor {
            Compressor::None(plain) => plain.take(),
            Compressor::Gzip(encoder) => some(encoder.get_mut().get_mut().split().freeze()),
            Compressor::Zstd(encoder) => some(encoder.get_mut().get_mut().split().freeze()),
            Compressor::Snappy(encoder) => some(encoder.get_mut().get_mut().split().freeze()),
        };
        self.taken += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        chunks
    }

    pub(super) fn size(&self) -> u64 {
        self.taken + self.compressor.produced() as u64 + self.waiting.len() as u64
    }

    pub(super) fn finish(mut self) -> Result<Vec<Bytes>, ConnectorError> {
        self.compressor.write_all(&self.waiting).and_then(|()| self.compressor.finish()).map_err(|error| internal("finish an object", error))
    }
}

fn zstd_encoder() -> io::Result<zstd::stream::write::Encoder<'static, Out>> {
    let mut encoder = zstd::stream::write::Encoder::new(out(), ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

impl Compressor {
    fn produced(&self) -> usize {
        match self {
            Self::None(plain) => plain.shared_bytes + plain.copied.len(),
            Self::Gzip(encoder) => encoder.get_ref().get_ref().len(),
            Self::Zstd(encoder) => encoder.get_ref().get_ref().len(),
            Self::Snappy(encoder) => encoder.get_ref().get_ref().len(),
        }
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::None(plain) => {
                plain.copied.extend_from_slice(text);
                Ok(())
            }
            Self::Gzip(encoder) => encoder.write_all(text),
            Self::Zstd(encoder) => encoder.write_all(text),
            Self::Snappy(encoder) => encoder.write_all(text),
        }
    }

    fn finish(self) -> io::Result<Vec<Bytes>> {
        let out = match self {
            Self::None(mut plain) => return Ok(plain.take()),
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Snappy(encoder) => encoder.into_inner().map_err(|error| io::Error::other(error.to_string()))?,
        };
        Ok(some(out.into_inner().freeze()))
    }
}
