//! Why: the mark of a stream travels as the metadata of one committed offset, under names made from the stream. Never parses leniently: a mark that is not ours is an error, not a guess.

use sha2::{Digest, Sha256};

use crate::connectors::connector::{Epoch, Mark, StreamId};

/// Brokers keep ids of any length, but tools that show them do not.
const ID_BYTES_MAX: usize = 249;
const VERSION: &str = "datasink-mark/1";
/// What a forgotten stream leaves.
const FORGOTTEN: &str = "datasink-mark/1 forgotten";

/// The transactional id of a stream and the name of its private group: `datasink/<cluster>/<sink>/<stream>`. A long stream name is replaced by its SHA-256.
pub(super) fn transactional_id(stream: &StreamId) -> String {
    let id = format!("datasink/{stream}");
    if id.len() <= ID_BYTES_MAX {
        return id;
    }
    let digest: String = Sha256::digest(stream.name.as_str()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("datasink/{}/{}/sha256:{digest}", stream.cluster.simple(), stream.sink.simple())
}

/// A mark as the target has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptMark {
    pub(super) mark: Mark,
    pub(super) epoch: Epoch,
}

impl KeptMark {
    /// As metadata: a version, then next, rejected, hash, epoch, and whether the stream is finished.
    pub(super) fn encode(&self) -> String {
        let Mark { next, rejected, hash, finished } = self.mark;
        format!("{VERSION} {next} {rejected} {hash:016x} {} {}", self.epoch, u8::from(finished))
    }

    /// The mark in `text`; `None` where there is none: an empty text, or a forgotten stream's.
    pub(super) fn decode(text: &str) -> Result<Option<Self>, NotAMark> {
        if text.is_empty() || text == FORGOTTEN {
            return Ok(None);
        }
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(NotAMark);
        if word()? != VERSION {
            return Err(NotAMark);
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotAMark);
        let (next, rejected) = (number(word()?)?, number(word()?)?);
        let hash = u64::from_str_radix(word()?, 16).map_err(|_| NotAMark)?;
        let epoch = Epoch(number(word()?)?);
        let finished = match word()? {
            "0" => false,
            "1" => true,
            _ => return Err(NotAMark),
        };
        if words.next().is_some() || rejected > next {
            return Err(NotAMark);
        }
        Ok(Some(Self { mark: Mark { next, rejected, hash, finished }, epoch }))
    }

    /// What stands for "there is no mark any more".
    pub(super) fn forgotten() -> String {
        FORGOTTEN.to_owned()
    }
}

/// The metadata is not a mark of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAMark;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::name::StreamName;

    #[test]
    fn ids_are_bounded_and_differ_by_stream() {
        let id = |name: &str| transactional_id(&StreamId { cluster: Uuid::nil(), sink: Uuid::max(), name: StreamName::parse(name).unwrap() });
        assert_eq!(id("orders"), "datasink/00000000000000000000000000000000/ffffffffffffffffffffffffffffffff/orders");
        let (one, other) = (id(&format!("{}1", "a".repeat(199))), id(&format!("{}2", "a".repeat(199))));
        assert!(one.len() <= ID_BYTES_MAX && one != other, "{one}");
    }

    #[test]
    fn what_is_not_a_mark_is_refused() {
        assert_eq!(KeptMark::decode(""), Ok(None));
        assert_eq!(KeptMark::decode(&KeptMark::forgotten()), Ok(None));
        for bad in [
            "x",
            "datasink-mark/2 1 0 0 1 0",
            "datasink-mark/1 1 0 0 1",
            "datasink-mark/1 1 0 0 1 2",
            "datasink-mark/1 1 2 0 1 0",
            "datasink-mark/1 1 0 0 1 0 ",
        ] {
            assert_eq!(KeptMark::decode(bad), Err(NotAMark), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_mark_survives_the_way(next: u64, share in 0_u64..=1, hash: u64, epoch: u64, finished: bool) {
            let kept = KeptMark { mark: Mark { next, rejected: next * share, hash, finished }, epoch: Epoch(epoch) };
            prop_assert!(kept.encode().len() < 128);
            prop_assert_eq!(KeptMark::decode(&kept.encode()), Ok(Some(kept)));
        }
    }
}
