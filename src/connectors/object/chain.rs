//! Why: a stream at an object store is a chain of objects, each named by its first offset and telling where the next begins; what follows from what is found there is decided here, purely.
//! Never asks a store, and never believes a time.
//!
//! The rule, which `chain_model.rs` tries in every order of events: an object is created only where none of its name is, and only after the one before it was; so the chain only grows at its
//! end, and whoever reads it finds a state that was true at the moment in which the first missing name was asked for. Two writers of one stream meet at a name: one creates it, the other reads
//! what is there. The same records up to the same mark: it was our own lost reply, or a twin of it. Other records: nothing may be claimed, the session opens again, reads the chain's end
//! and compares the rolling hash there with the one over what its own client sent.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use sha2::{Digest as _, Sha256};

use crate::{
    connectors::connector::{Mark, StreamId},
    record::Offset,
};

/// The version of what objects say of themselves.
const VERSION: u64 = 1;

/// Tells streams of one bucket apart, also those of two services whose sinks and streams have the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StreamTag(pub(super) u64);

impl StreamTag {
    /// `generation`: how often the stream was forgotten; each time it becomes another one at the same place.
    pub(super) fn of(stream: &StreamId, generation: u64) -> Self {
        let digest = Sha256::digest(format!("{stream} {generation}"));
        Self(u64::from_be_bytes(digest[..8].try_into().expect("eight of thirty-two bytes")))
    }
}

impl fmt::Display for StreamTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What an object says of itself: which records it stands for, and the stream's mark at its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Link {
    /// Whose it is.
    pub(super) stream: StreamTag,
    /// The offset it is named by.
    pub(super) first: Offset,
    /// The stream's mark at its end; the next object is named by `mark.next`.
    pub(super) mark: Mark,
    /// Records in it; the rest of `first..next` was rejected.
    pub(super) records: u64,
    /// The writer's epoch, for people: nothing is decided by it.
    pub(super) epoch: u64,
    /// What lies before it is elsewhere: it is the stream's first object here, or the first since the sink came back to this place.
    pub(super) begins: bool,
    /// SHA-256 of the object's bytes, for readers.
    pub(super) content: [u8; 32],
}

impl Link {
    /// As the value of one metadata field: printable ASCII without blanks, quotes or commas, which every store and proxy leaves as it is.
    pub(super) fn to_text(&self) -> String {
        let mark = &self.mark;
        let mut text = format!(
            "v={VERSION};stream={};first={};next={};rejected={};hash={:016x};records={};epoch={};finished={};begins={};sha256=",
            self.stream,
            self.first,
            mark.next,
            mark.rejected,
            mark.hash,
            self.records,
            self.epoch,
            u8::from(mark.finished),
            u8::from(self.begins)
        );
        for byte in self.content {
            write!(text, "{byte:02x}").expect("a string takes every text");
        }
        text
    }

    /// Reads what [`Link::to_text`] wrote; fields that a later version adds are passed over.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = text.split(';').filter_map(|field| field.split_once('=')).collect();
        let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
        let hex = |name: &str| u64::from_str_radix(fields.get(name)?, 16).ok();
        let digest = fields.get("sha256").filter(|digest| digest.len() == 64 && digest.is_ascii())?;
        let mut content = [0; 32];
        for (index, byte) in content.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digest[2 * index..2 * index + 2], 16).ok()?;
        }
        let mark = Mark { next: number("next")?, rejected: number("rejected")?, hash: hex("hash")?, finished: number("finished")? == 1 };
        (number("v")? == VERSION).then_some(())?;
        Some(Self {
            stream: StreamTag(hex("stream")?),
            first: number("first")?,
            mark,
            records: number("records")?,
            epoch: number("epoch")?,
            begins: number("begins")? == 1,
            content,
        })
    }

    /// Whether it can be what its name says: of this stream, and leading on.
    fn fits(&self, stream: StreamTag, at: Offset) -> bool {
        self.stream == stream && self.first == at && (self.mark.next > at || self.mark.finished && self.mark.next == at)
    }
}

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// No object.
    Absent,
    /// An object that does not say what ours say.
    Foreign,
    /// One of ours.
    Link(Link),
}

/// What to make of a name that was taken when we wanted to create it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same records up to the same mark: our own earlier attempt, whose reply was lost, or a twin of it. It counts.
    Own,
    /// Of this stream, with another cut or other records: read the chain's end and compare.
    Another,
    /// Not of this stream: a person must move it.
    Foreign,
    /// Nothing: gone again since, or what the store counted as taken is no object.
    Nothing,
}

/// Judges what is at the name that `own` was to be created under.
pub(super) fn judge(own: &Link, found: &Found) -> Verdict {
    match found {
        Found::Absent => Verdict::Nothing,
        Found::Link(there) if !there.fits(own.stream, own.first) => Verdict::Foreign,
        Found::Link(there) if there.mark == own.mark && there.records == own.records => Verdict::Own,
        Found::Link(_) => Verdict::Another,
        Found::Foreign => Verdict::Foreign,
    }
}

/// Where the chain leads from a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing there: the chain ends before it.
    End,
    /// To the next name.
    On(Offset),
    /// The stream ends for good with this object.
    Last,
    /// Something there that is not of this stream.
    Foreign,
}

/// One step along the chain of `stream`, given what is at the name `at`.
pub(super) fn step(stream: StreamTag, at: Offset, found: &Found) -> Step {
    match found {
        Found::Absent => Step::End,
        Found::Link(link) if !link.fits(stream, at) => Step::Foreign,
        Found::Link(link) if link.mark.finished => Step::Last,
        Found::Link(link) => Step::On(link.mark.next),
        Found::Foreign => Step::Foreign,
    }
}

/// Where a writer goes on, by the rule that the session follows too: the target's mark where it is at or beyond our note, else the note (the sink was pointed elsewhere; the records before
/// are at another place). Says also whether the next object begins a run.
pub(super) fn go_on(end: Option<Mark>, noted: Offset) -> (Offset, bool) {
    match end {
        Some(mark) if mark.next >= noted => (mark.next, false),
        _ => (noted, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let mark = Mark { next: 30, rejected: 2, hash: 0xfeed, finished: false };
        Link { stream: StreamTag(7), first: 10, mark, records: 18, epoch: 3, begins: false, content: [0xab; 32] }
    }

    #[test]
    fn what_an_object_says_survives_the_way_there_and_back() {
        let text = link().to_text();
        assert_eq!(Link::parse(&text), Some(link()));
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'"'), "{text}");
        assert_eq!(Link::parse(&format!("{text};later=1")), Some(link()));
        for broken in ["", "v=1", &text.replace("v=1", "v=2"), &text.replace("next=", "nxt="), &text[..text.len() - 2], &text.replace("first=10", "first=-1")] {
            assert_eq!(Link::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_taken_name_is_ours_only_with_the_same_records_up_to_the_same_mark() {
        let own = link();
        let judged = |found: Link| judge(&own, &Found::Link(found));
        assert_eq!(judged(Link { epoch: 99, content: [0; 32], ..link() }), Verdict::Own);
        assert_eq!(judged(Link { mark: Mark { hash: 1, ..own.mark }, ..link() }), Verdict::Another, "other records");
        assert_eq!(judged(Link { mark: Mark { next: 31, ..own.mark }, ..link() }), Verdict::Another, "another cut");
        assert_eq!(judged(Link { mark: Mark { rejected: 3, ..own.mark }, records: 17, ..link() }), Verdict::Another, "one more was refused");
        assert_eq!(judged(Link { mark: Mark { finished: true, ..own.mark }, ..link() }), Verdict::Another, "it ends the stream");
        assert_eq!(judged(Link { stream: StreamTag(8), ..link() }), Verdict::Foreign);
        assert_eq!(judge(&own, &Found::Foreign), Verdict::Foreign);
        assert_eq!(judge(&own, &Found::Absent), Verdict::Nothing);
    }

    #[test]
    fn a_step_leads_on_only_through_what_is_of_this_stream() {
        let stepped = |found: Link| step(StreamTag(7), 10, &Found::Link(found));
        assert_eq!(stepped(link()), Step::On(30));
        assert_eq!(step(StreamTag(7), 10, &Found::Absent), Step::End);
        assert_eq!(stepped(Link { mark: Mark { next: 10, finished: true, ..link().mark }, ..link() }), Step::Last);
        assert_eq!(stepped(Link { mark: Mark { next: 10, ..link().mark }, ..link() }), Step::Foreign, "a step on the spot would never end");
        assert_eq!(stepped(Link { first: 11, ..link() }), Step::Foreign, "a copy under another name");
        assert_eq!(stepped(Link { stream: StreamTag(8), ..link() }), Step::Foreign);
    }

    #[test]
    fn a_writer_goes_on_where_the_session_does() {
        let end = |next| Some(Mark { next, ..Mark::default() });
        assert_eq!(go_on(None, 0), (0, true));
        assert_eq!(go_on(end(9), 5), (9, false));
        assert_eq!(go_on(end(5), 5), (5, false));
        assert_eq!(go_on(None, 5), (5, true), "the records before are elsewhere");
        assert_eq!(go_on(end(3), 5), (5, true), "the sink came back to an earlier place");
    }
}
