//! Why: what may be said about the objects of a sink is the same for every kind of object store, and is said here once. Never says how a bucket is reached.

use std::time::Duration;

use super::{
    format::{COMPRESSION, COMPRESSIONS, FILE_FORMAT, FILE_FORMATS, Format},
    layout::Layout,
    path::{PATH_TEMPLATE, PathTemplate},
};
use crate::{
    connectors::{
        connector::UnitPolicy,
        options::{ConfigFault, OptionSpec, OptionType, Options},
    },
    limits::{BUDGET_BYTES, OBJECT_BYTES_MAX},
};

const MAX_OBJECT_BYTES: &str = "max_object_bytes";
const MAX_OBJECT_RECORDS: &str = "max_object_records";
const MAX_OBJECT_AGE: &str = "max_object_age";
const MAX_OBJECT_IDLE: &str = "max_object_idle";

const DEFAULT_TEMPLATE: &str = "{schema}/{sink}/{stream}";
const DEFAULT_OBJECT_BYTES: u64 = 32 << 20;
const DEFAULT_OBJECT_RECORDS: u64 = 1_000_000;
const DEFAULT_OBJECT_AGE: Duration = Duration::from_secs(30);
const DEFAULT_OBJECT_IDLE: Duration = Duration::from_secs(5);

/// Commits that may be under way: while one object is created, the parts of the next go up.
const COMMITS_IN_FLIGHT: usize = 2;

// A session announces a window of three units and never more than half of what all sessions may hold; two have to fit.
const _: () = assert!(2 * OBJECT_BYTES_MAX <= BUDGET_BYTES / 2);
const _: () = assert!(DEFAULT_OBJECT_BYTES <= OBJECT_BYTES_MAX);

/// The options that every kind of object store adds to its own.
pub(in crate::connectors) const OBJECT_OPTIONS: [OptionSpec; 7] = [
    OptionSpec::new(
        PATH_TEMPLATE,
        OptionType::Text,
        "Where in the bucket the objects of a stream are: a path with the placeholders {schema}, {sink} and {stream}, of which {stream} must be in it, and {field:NAME} or \
         {field:NAME|date}, |year, |month, |day, |hour for what a record holds in a field: then each unit has an object a path, and a manifest that lists them (CONTINUOUS only).",
    )
    .or(DEFAULT_TEMPLATE)
    .place(),
    OptionSpec::new(FILE_FORMAT, OptionType::Enum(FILE_FORMATS), "The form of the objects.").or("ndjson").place(),
    OptionSpec::new(COMPRESSION, OptionType::Enum(COMPRESSIONS), "How the objects are compressed; inside the file for parquet, arrow and avro.")
        .or("none")
        .place(),
    OptionSpec::new(
        MAX_OBJECT_BYTES,
        OptionType::Int { min: 1_024, max: OBJECT_BYTES_MAX as i64 },
        "An object is closed at this many bytes of records, before they are compressed; a sender holds what is not closed.",
    )
    .or("33554432")
    .per_stream(),
    OptionSpec::new(MAX_OBJECT_RECORDS, OptionType::Int { min: 1, max: 1_000_000_000 }, "An object is closed at this many records.").or("1000000").per_stream(),
    OptionSpec::new(
        MAX_OBJECT_AGE,
        OptionType::Seconds { min: 0, max: 86_400 },
        "An object is closed this long after its first record came, in seconds; 0: as soon as the one before is written.",
    )
    .or("30")
    .per_stream(),
    OptionSpec::new(
        MAX_OBJECT_IDLE,
        OptionType::Seconds { min: 0, max: 86_400 },
        "An object is closed when no record came for this long, in seconds; 0: only its age counts.",
    )
    .or("5")
    .per_stream(),
];

/// The layout that the options ask for; all faults at once.
pub(super) fn layout(options: &Options) -> Result<Layout, Vec<ConfigFault>> {
    let text = |name: &str, default| options.text(name).unwrap_or(default).to_owned();
    let template = PathTemplate::parse(&text(PATH_TEMPLATE, DEFAULT_TEMPLATE));
    let format = Format::parse(&text(FILE_FORMAT, "ndjson"), &text(COMPRESSION, "none"));
    match (template, format) {
        (Ok(template), Ok(format)) => Ok(Layout { template, format, options: options.clone() }),
        (template, format) => Err([template.err(), format.err()].into_iter().flatten().collect()),
    }
}

/// How large objects may grow: what the stream says, else the sink, else the default.
pub(super) fn units(sink: &Options, stream: &Options) -> UnitPolicy {
    let number = |name, default| stream.int(name).or(sink.int(name)).and_then(|number| u64::try_from(number).ok()).unwrap_or(default);
    let seconds = |name, default| stream.seconds(name).or(sink.seconds(name)).unwrap_or(default);
    UnitPolicy {
        records_max: number(MAX_OBJECT_RECORDS, DEFAULT_OBJECT_RECORDS),
        bytes_max: number(MAX_OBJECT_BYTES, DEFAULT_OBJECT_BYTES),
        age_max: seconds(MAX_OBJECT_AGE, DEFAULT_OBJECT_AGE),
        idle_max: seconds(MAX_OBJECT_IDLE, DEFAULT_OBJECT_IDLE),
        commits_in_flight: COMMITS_IN_FLIGHT,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn checked(given: &[(&str, &str)]) -> Result<Options, Vec<ConfigFault>> {
        static SPECS: [OptionSpec; 7] = OBJECT_OPTIONS;
        let given: BTreeMap<String, String> = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Options::check("s3", &SPECS, &given)
    }

    #[test]
    fn the_catalogue_and_the_defaults_say_the_same() {
        let (given, none) = (checked(&[]).expect("nothing is needed"), Options::default());
        let (by_text, by_code) = (units(&given, &none), units(&none, &none));
        assert_eq!(format!("{by_text:?}"), format!("{by_code:?}"));
        assert_eq!(format!("{:?}", layout(&given).map(|layout| layout.template)), format!("{:?}", layout(&none).map(|layout| layout.template)));
    }

    #[test]
    fn a_stream_goes_before_its_sink() {
        let (sink, stream) = (checked(&[(MAX_OBJECT_RECORDS, "7"), (MAX_OBJECT_AGE, "1")]), checked(&[(MAX_OBJECT_RECORDS, "5")]));
        let policy = units(&sink.expect("allowed"), &Options::default());
        assert_eq!((policy.records_max, policy.age_max), (7, Duration::from_secs(1)));
        assert_eq!(units(&Options::default(), &stream.expect("allowed")).records_max, 5);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let options = checked(&[(PATH_TEMPLATE, "../x"), (FILE_FORMAT, "arrow"), (COMPRESSION, "gzip")]).expect("each is allowed for itself");
        let faults = layout(&options).expect_err("neither works");
        assert_eq!(
            faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(),
            [format!("options[{PATH_TEMPLATE:?}]"), format!("options[{COMPRESSION:?}]")]
        );
    }

    #[test]
    fn two_objects_fit_the_budget() {
        assert!(checked(&[(MAX_OBJECT_BYTES, &OBJECT_BYTES_MAX.to_string())]).is_ok());
        assert!(checked(&[(MAX_OBJECT_BYTES, &(OBJECT_BYTES_MAX + 1).to_string())]).is_err());
    }
}
