//! Why: what lies where in a bucket is said once: a stream's objects, and beside them what only the service reads. Never a name that two streams or two services could share.
//!
//! | Key, below the path that the option `path_template` gives a stream | What it is |
//! |---|---|
//! | `<first offset, 20 digits>-<stream tag>.<extension>` | an object of records |
//! | `_manifests/<first offset, 20 digits>-<stream tag>.json` | where records say where they lie: the list of one unit's objects, which are as below |
//! | `_datasink/<stream tag>` | which generation of the stream this is; also how it is seen whether the store creates conditionally |
//! | `.plan/<stream tag>.json` | ON_FINISH: that the stream is finished, and how to complete it after a crash; stays as the stream's mark. Or that what was staged first is given up; then the next one is `.plan/<stream tag>-1.json`, and so on |
//! | `.plan/<stream tag>-<attempt>-<random>.upload` | ON_FINISH: an upload in parts under way, for whoever must remove it after a crash |
//! | `_tmp/<stream tag>-<random>.<extension>` | ON_FINISH, where uploads cannot be completed conditionally: until it is copied |
//!
//! Where the template has fields of records, the path above is its constant beginning with the stream's name, and the objects of records are elsewhere:
//!
//! | Key | What it is |
//! |---|---|
//! | `<path of the records>/<first offset, 20 digits>-<stream tag>-<16 digits of the content's SHA-256>.<extension>` | the records of one unit that have this path |
//!
//! The tag is a hash of installation, sink, stream and generation. Names that begin with `_` or `.` are passed over by what reads folders of files (Hive, Spark, Trino, pyarrow).

use object_store::{Attribute, Attributes, path::Path};

use super::{chain::StreamTag, format::Format, path::PathTemplate};
use crate::{
    connectors::{
        connector::StreamId,
        error::{ConnectorError, ConnectorErrorKind as Kind},
        options::{ConfigFault, Options},
    },
    name::QualifiedName,
    record::Offset,
};

/// The digits of an offset in a name: every `u64` fits, and names sort as offsets do.
const OFFSET_DIGITS: usize = 20;

/// How a sink lays out its objects.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) template: PathTemplate,
    pub(super) format: Format,
    pub(super) options: Options,
}

impl Layout {
    /// From the options of a sink; all faults at once.
    pub(super) fn parse(options: &Options) -> Result<Self, Vec<ConfigFault>> {
        super::options::layout(options)
    }

    /// The folder of a stream; a fault where the names make it too long.
    pub(super) fn folder(&self, stream: &StreamId, sink: &QualifiedName) -> Result<String, ConnectorError> {
        let constant = self.template.constant(stream, sink);
        let folder = constant.and_then(|folder| folder.map_or_else(|| self.template.lead(stream, sink), Ok));
        folder.map_err(|fault| ConnectorError::new(Kind::Misconfigured, fault.message))
    }

    /// Whether records say where they lie.
    pub(super) fn partitioned(&self) -> bool {
        !self.template.fields().is_empty()
    }

    /// The chain of a stream: its objects, or their manifests where records say where they lie.
    pub(super) fn place(&self, folder: &str, tag: StreamTag) -> Place {
        if self.partitioned() { Place::manifests(folder, tag) } else { Place::new(folder, tag, self.format) }
    }

    /// What the objects of the chain are.
    pub(super) fn kind_of_content(&self) -> Attributes {
        if self.partitioned() { [(Attribute::ContentType, "application/json")].into_iter().collect() } else { self.format.kind_of_content() }
    }
}

/// Where one stream's objects are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    folder: String,
    pub(super) tag: StreamTag,
    extension: &'static str,
}

impl Place {
    pub(super) fn new(folder: &str, tag: StreamTag, format: Format) -> Self {
        Self { folder: folder.to_owned(), tag, extension: format.extension() }
    }

    /// The chain of the manifests of a stream.
    pub(super) fn manifests(folder: &str, tag: StreamTag) -> Self {
        Self { folder: format!("{folder}/_manifests"), tag, extension: "json" }
    }

    /// Where all of it is.
    pub(super) fn folder(&self) -> Path {
        path(&self.folder)
    }

    /// The object whose first offset is this.
    pub(super) fn object(&self, first: Offset) -> Path {
        path(&format!("{}/{first:0width$}-{}.{}", self.folder, self.tag, self.extension, width = OFFSET_DIGITS))
    }

    /// The first offset of an object of this stream, from its key.
    pub(super) fn first_of(&self, key: &str) -> Option<Offset> {
        let name = key.strip_prefix(self.folder.as_str())?.strip_prefix('/')?;
        let digits = name.strip_suffix(self.extension)?.strip_suffix('.')?.strip_suffix(&self.tag.to_string())?.strip_suffix('-')?;
        let whole = digits.len() == OFFSET_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole { digits.parse().ok() } else { None }
    }

    /// Where it is decided what becomes of an attempt at an ON_FINISH stream; they are numbered from 0.
    pub(super) fn plan(&self, attempt: u64) -> Path {
        let number = if attempt == 0 { String::new() } else { format!("-{attempt}") };
        path(&format!("{}/.plan/{}{number}.json", self.folder, self.tag))
    }

    /// Where plans and uploads are.
    pub(super) fn plans(&self) -> Path {
        path(&format!("{}/.plan", self.folder))
    }

    /// Where it is written down that an attempt has an upload under way.
    pub(super) fn upload(&self, attempt: u64, random: u64) -> Path {
        path(&format!("{}/.plan/{}-{attempt}-{random:016x}.upload", self.folder, self.tag))
    }

    /// The attempt whose upload is written down at a key of [`Self::upload`].
    pub(super) fn attempt_of(&self, key: &str) -> Option<u64> {
        let name = key.strip_prefix(self.plans().as_ref())?.strip_prefix('/')?.strip_suffix(".upload")?;
        let (attempt, _) = name.strip_prefix(&self.tag.to_string())?.strip_prefix('-')?.split_once('-')?;
        attempt.parse().ok()
    }

    /// An upload that is copied once it is whole.
    pub(super) fn temporary(&self, random: u64) -> Path {
        path(&format!("{}/_tmp/{}-{random:016x}.{}", self.folder, self.tag, self.extension))
    }
}

/// The object of the records of one unit that have the path `folder`. The same records make the same name, and other ones another.
pub(super) fn data_object(folder: &str, tag: StreamTag, first: Offset, content: &[u8; 32], format: Format) -> Path {
    let hash = u64::from_be_bytes(content[..8].try_into().expect("eight of thirty-two bytes"));
    path(&format!("{folder}/{first:0width$}-{tag}-{hash:016x}.{}", format.extension(), width = OFFSET_DIGITS))
}

/// Where it is written which generation of a stream counts; `tag` is the first generation's.
pub(super) fn generation_key(folder: &str, tag: StreamTag) -> Path {
    path(&format!("{folder}/_datasink/{tag}"))
}

fn path(key: &str) -> Path {
    // Templates were checked when the sink was made, and what is put behind them is digits and letters.
    Path::parse(key).expect("a checked template makes a whole path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::new("exports/s", StreamTag(0xab), Format::parse("ndjson", "none").expect("a pair with a meaning"))
    }

    #[test]
    fn names_sort_as_offsets_do_and_are_read_back() {
        let offsets = [0, 1, 9, 10, 99_999, u64::MAX];
        let names: Vec<String> = offsets.iter().map(|offset| place().object(*offset).to_string()).collect();
        assert_eq!(names[0], "exports/s/00000000000000000000-00000000000000ab.ndjson");
        assert!(names.is_sorted());
        assert_eq!(names.iter().filter_map(|name| place().first_of(name)).collect::<Vec<_>>(), offsets);
    }

    #[test]
    fn plans_and_uploads_are_the_streams_own() {
        let place = place();
        assert_eq!(place.plan(0).as_ref(), "exports/s/.plan/00000000000000ab.json");
        assert_eq!(place.plan(12).as_ref(), "exports/s/.plan/00000000000000ab-12.json");
        assert_eq!(place.attempt_of(place.upload(3, 7).as_ref()), Some(3));
        for other in [place.plan(1).as_ref(), "exports/s/.plan/00000000000000ac-0-0000000000000001.upload", "exports/s/x.upload"] {
            assert_eq!(place.attempt_of(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_of_the_stream_is_passed_over() {
        for key in [
            "exports/s/00000000000000000000-00000000000000ac.ndjson",
            "exports/s/00000000000000000000-00000000000000ab.csv",
            "exports/s/0-00000000000000ab.ndjson",
            "exports/s/+0000000000000000001-00000000000000ab.ndjson",
            "exports/s2/00000000000000000000-00000000000000ab.ndjson",
            "exports/s/_tmp/00000000000000000000-00000000000000ab.ndjson",
            place().plan(0).as_ref(),
            place().upload(0, 1).as_ref(),
            place().temporary(1).as_ref(),
        ] {
            assert_eq!(place().first_of(key), None, "{key}");
        }
    }
}
