//! Why: kinds that send records as JSON messages share what the options mean and what a message looks like. Never knows where a message goes.

use bytes::{BufMut, Bytes, BytesMut};

use super::options::{OptionSpec, OptionType, Options};
use crate::limits;

const MESSAGE_BYTES_DEFAULT: u64 = 1_000_000;
const MESSAGE_BYTES_MAX: i64 = limits::BATCH_BYTES_MAX as i64;

/// Most bytes of one message.
pub(super) const MAX_MESSAGE_SIZE: OptionSpec = OptionSpec::new(
    "max_message_size",
    OptionType::Int { min: 1, max: MESSAGE_BYTES_MAX },
    "Most bytes of one message: the body of a request, or the value of a Kafka message.",
)
.or("1000000")
.per_stream();

/// How records become messages.
pub(super) const JSON_FORMAT: OptionSpec = OptionSpec::new(
    "json_format",
    OptionType::Enum(&["flat", "nested"]),
    "flat: each message carries one record, a JSON object; nested: each message carries an array of records.",
)
.or("flat")
.per_stream();

/// How records become messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JsonFormat {
    /// One object a message.
    Flat,
    /// An array of objects a message.
    Nested,
}

/// How records are cut into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) format: JsonFormat,
    /// What `max_batch_size` says.
    pub(super) records_max: u64,
    /// Bytes of one message.
    pub(super) message_bytes_max: u64,
}

impl Cut {
    /// What `options` say; `self` where they say nothing.
    pub(super) fn overridden(self, options: &Options) -> Self {
        let number = |name| options.int(name).and_then(|value| u64::try_from(value).ok());
        Self {
            format: match options.text("json_format") {
                Some("nested") => JsonFormat::Nested,
                Some(_) => JsonFormat::Flat,
                None => self.format,
            },
            records_max: number("max_batch_size").unwrap_or(self.records_max),
            message_bytes_max: number("max_message_size").unwrap_or(self.message_bytes_max),
        }
    }

    /// Most records of one message.
    pub(super) fn records_per_message(self) -> usize {
        match self.format {
            JsonFormat::Flat => 1,
            JsonFormat::Nested => usize::try_from(self.records_max).unwrap_or(usize::MAX),
        }
    }

    /// Bytes of a message with records of these lengths.
    pub(super) fn message_bytes(self, records: usize, record_bytes: u64) -> u64 {
        match self.format {
            JsonFormat::Flat => record_bytes,
            // Two brackets, and a comma between records.
            JsonFormat::Nested => record_bytes + 1 + (records as u64).max(1),
        }
    }

    /// How many of the first records go into one message: at least one, since none is let in that is too large alone. The same records are always cut alike.
    pub(super) fn fitting(self, lengths: impl Iterator<Item = usize>) -> usize {
        let mut bytes = 0;
        let fits = lengths.take(self.records_per_message()).enumerate().take_while(|(index, length)| {
            bytes += *length as u64;
            self.message_bytes(index + 1, bytes) <= self.message_bytes_max
        });
        fits.count().max(1)
    }

    /// The message that these records make.
    pub(super) fn message<'a>(self, mut records: impl ExactSizeIterator<Item = &'a Bytes> + Clone) -> Bytes {
        if self.format == JsonFormat::Flat && records.len() == 1 {
            return records.next().cloned().unwrap_or_default();
        }
        let mut message = BytesMut::with_capacity(records.clone().map(|record| record.len() + 1).sum::<usize>() + 1);
        for (index, record) in records.enumerate() {
            message.put_u8(if index == 0 { b'[' } else { b',' });
            message.put_slice(record);
        }
        message.put_u8(b']');
        message.freeze()
    }
}

impl Default for Cut {
    fn default() -> Self {
        Self { format: JsonFormat::Flat, records_max: 1, message_bytes_max: MESSAGE_BYTES_DEFAULT }
    }
}

/// Whether a text that came from a client is a W3C trace context, fit for a header.
pub(super) fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let right = matches!(parts[..], [version, trace, span, flags] if version == "00" && trace.len() == 32 && span.len() == 16 && flags.len() == 2);
    right && parts.iter().all(|part| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: Cut = Cut { format: JsonFormat::Nested, records_max: 3, message_bytes_max: 10 };

    #[test]
    fn records_are_cut_by_number_and_by_size() {
        assert_eq!(NESTED.fitting([1, 1, 1, 1].into_iter()), 3);
        // "[aa,bbb]" has eight bytes, and with another "c" ten.
        assert_eq!(NESTED.fitting([2, 3, 1].into_iter()), 3);
        assert_eq!(NESTED.fitting([2, 4, 1].into_iter()), 2);
        assert_eq!(NESTED.fitting([8, 1].into_iter()), 1);
        assert_eq!(Cut::default().fitting([5, 5].into_iter()), 1);
    }

    #[test]
    fn a_message_has_exactly_the_bytes_it_was_counted_with() {
        let records = [Bytes::from_static(b"{}"), Bytes::from_static(b"{\"a\":1}")];
        let message = NESTED.message(records.iter());
        assert_eq!(message, "[{},{\"a\":1}]");
        assert_eq!(message.len() as u64, NESTED.message_bytes(2, 9));
        assert_eq!(Cut::default().message(records[1..].iter()), "{\"a\":1}");
    }

    #[test]
    fn only_a_trace_context_is_one() {
        assert!(is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        for no in ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"] {
            assert!(!is_traceparent(no), "{no:?}");
        }
    }
}
