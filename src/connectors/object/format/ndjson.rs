//! Why: records that came as text leave as the same text, not copied where they came as the object has them. Never parses a record.

use bytes::Bytes;

use super::{Compression, Encoder, compress::Text, refused};
use crate::{
    connectors::error::ConnectorError,
    record::{Batch, Records},
};

/// Writes a JSON object a line.
pub(super) struct NdjsonEncoder {
    text: Text,
}

impl NdjsonEncoder {
    pub(super) fn new(compression: Compression) -> Result<Self, ConnectorError> {
        Ok(Self { text: Text::new(compression)? })
    }
}

impl Encoder for NdjsonEncoder {
    fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError> {
        let converted;
        let lines = match &batch.records {
            Records::Ndjson(lines) => lines,
            Records::Arrow(_) => {
                converted = batch.to_ndjson().map_err(refused)?.records;
                let Records::Ndjson(lines) = &converted else { unreachable!("to_ndjson gives ndjson") };
                lines
            }
        };
        if let Some(text) = lines.text() {
            return self.text.share(text);
        }
        self.text.reserve(usize::try_from(lines.byte_count()).unwrap_or(0));
        for line in lines.iter() {
            self.text.write(line)?;
            self.text.write(b"\n")?;
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.text.take()
    }

    fn size(&self) -> u64 {
        self.text.size()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Bytes>, ConnectorError> {
        self.text.finish()
    }
}
