//! Why: options come as a map of strings and leave as checked values; whatever is not known is an error, all errors at once. Never reads an option by a bare string twice.

use std::{collections::BTreeMap, fmt, time::Duration};

/// What an option's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionType {
    /// Any text.
    Text,
    /// A whole number within bounds, decimal.
    Int {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// `true` or `false`.
    Bool,
    /// Whole seconds within bounds.
    Seconds {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One of a few words.
    Enum(&'static [&'static str]),
    /// `[schema.]name` of another object.
    Name,
}

impl OptionType {
    /// The word for it in `OptionInfo.type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Int { .. } => "int",
            Self::Bool => "bool",
            Self::Seconds { .. } => "duration_seconds",
            Self::Enum(_) => "enum",
            Self::Name => "name",
        }
    }
}

/// One option of a kind, as the catalogue publishes it.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// The specification's native key.
    pub name: &'static str,
    /// What its value must look like.
    pub option_type: OptionType,
    /// Whether it must be given.
    pub required: bool,
    /// Its default, as text; empty: none.
    pub default: &'static str,
    /// Whether it is never shown again once stored.
    pub secret: bool,
    /// Whether a stream may override it.
    pub per_stream: bool,
    /// One sentence.
    pub description: &'static str,
    /// Options that cannot be given beside it.
    pub conflicts_with: &'static [&'static str],
    /// What a change of it means.
    pub bearing: Bearing,
}

/// What a change of an option means for a sink that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// It says where records go, or under which names: afterwards that is another destination, which earlier progress does not bind.
    Place,
    /// It says where the credential's secret goes, or how safely: as after a change of place, the right to the credential is asked for again.
    Safety,
    /// It says how records travel and nothing else.
    Manner,
}

impl OptionSpec {
    /// An optional, public option without a default.
    pub const fn new(name: &'static str, option_type: OptionType, description: &'static str) -> Self {
        Self { name, option_type, required: false, default: "", secret: false, per_stream: false, description, conflicts_with: &[], bearing: Bearing::Safety }
    }

    /// With a default.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Must be given.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// Never shown again.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// A stream may override it; so it can say only how records travel.
    #[must_use]
    pub const fn per_stream(mut self) -> Self {
        self.per_stream = true;
        self.manner()
    }

    /// Says where records go, or under which names.
    #[must_use]
    pub const fn place(mut self) -> Self {
        self.bearing = Bearing::Place;
        self
    }

    /// Says how records travel and nothing else.
    #[must_use]
    pub const fn manner(mut self) -> Self {
        self.bearing = Bearing::Manner;
        self
    }

    /// Cannot be given beside these.
    #[must_use]
    pub const fn conflicts_with(mut self, others: &'static [&'static str]) -> Self {
        self.conflicts_with = others;
        self
    }
}

/// Options that every kind knows.
pub const COMMON: [OptionSpec; 5] = [
    OptionSpec::new("credential", OptionType::Name, "Credential to authenticate with, [schema.]name."),
    OptionSpec::new("connection_timeout", OptionType::Seconds { min: 1, max: 300 }, "Limit for establishing a connection, in seconds.").or("10").manner(),
    OptionSpec::new(
        "wait_timeout",
        OptionType::Seconds { min: 1, max: 86_400 },
        "How long a destination may fail without any progress before a session gives up, in seconds; also the limit for one reply, up to 30 seconds.",
    )
    .or("60")
    .per_stream(),
    OptionSpec::new("skip_validation", OptionType::Bool, "Store the sink without connecting to its destination first.").or("false").manner(),
    OptionSpec::new("dead_letter_sink", OptionType::Text, "Where rejected records go under DEAD_LETTER: a data sink, or table://[schema.]table.").manner(),
];

/// The options of several lists as one, of exactly `N`.
pub const fn join<const N: usize>(lists: &[&[OptionSpec]]) -> [OptionSpec; N] {
    let mut joined = [COMMON[0]; N];
    let (mut list, mut at) = (0, 0);
    while list < lists.len() {
        let mut item = 0;
        while item < lists[list].len() {
            joined[at] = lists[list][item];
            item += 1;
            at += 1;
        }
        list += 1;
    }
    assert!(at == N, "N is the sum of the lists");
    joined
}

/// What is wrong with one option or with the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The field: `options["key"]`, `destination`, …
    pub field: String,
    /// Which sort.
    pub kind: ConfigFaultKind,
    /// One sentence, lower case.
    pub message: String,
    /// Every varying part of the message, by key.
    pub details: Vec<(&'static str, String)>,
}

/// The sorts of configuration faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigFaultKind {
    /// The destination cannot be parsed, or may not be used.
    Destination,
    /// No such option for this kind.
    UnknownOption,
    /// The option's value is not allowed.
    InvalidOption,
    /// A required option is absent.
    MissingOption,
    /// Two options disagree.
    Conflict,
    /// Another field's value is not allowed.
    Field,
}

impl ConfigFault {
    /// A destination that cannot be used.
    pub fn destination(message: impl Into<String>) -> Self {
        Self { field: "destination".to_owned(), kind: ConfigFaultKind::Destination, message: message.into(), details: Vec::new() }
    }

    /// A fault of one option.
    pub fn option(kind: ConfigFaultKind, option: &str, message: impl Into<String>) -> Self {
        Self { field: format!("options[{option:?}]"), kind, message: message.into(), details: vec![("option", option.to_owned())] }
    }

    /// A fault of a field that is no option: a credential's `identity` or `secret`.
    pub fn field(field: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), kind: ConfigFaultKind::Field, message: message.into(), details: Vec::new() }
    }

    /// Adds a varying part of the message.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.details.push((key, value.into()));
        self
    }
}

/// Checked options of one sink: every key known, every value of its type, defaults filled in.
#[derive(Clone, Default)]
pub struct Options {
    values: BTreeMap<&'static str, String>,
    secret: Vec<&'static str>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.values.iter().map(|(key, value)| (key, if self.secret.contains(key) { "***" } else { value.as_str() }))).finish()
    }
}

impl Options {
    /// Checks `given` against the catalogue of the kind called `kind`; every fault at once, in key order.
    pub fn check(kind: &str, specs: &'static [OptionSpec], given: &BTreeMap<String, String>) -> Result<Self, Vec<ConfigFault>> {
        let mut faults = Vec::new();
        let mut options = Self::default();
        for (key, value) in given {
            match specs.iter().find(|spec| spec.name == key) {
                None => faults.push(unknown(kind, specs, key)),
                Some(spec) => match check_value(spec, value) {
                    Err(fault) => faults.push(fault),
                    Ok(()) => {
                        for other in spec.conflicts_with.iter().filter(|other| given.contains_key(**other) && *key.as_str() < ***other) {
                            faults.push(
                                ConfigFault::option(
                                    ConfigFaultKind::Conflict,
                                    key,
                                    format!("option {key:?} cannot be given beside {other:?}; leave one of them out"),
                                )
                                .with("conflicts_with", *other),
                            );
                        }
                        options.values.insert(spec.name, value.clone());
                    }
                },
            }
        }
        for spec in specs {
            if spec.secret {
                options.secret.push(spec.name);
            }
            if given.contains_key(spec.name) {
                continue;
            }
            if spec.required {
                faults.push(
                    ConfigFault::option(
                        ConfigFaultKind::MissingOption,
                        spec.name,
                        format!("a {kind} sink needs the option {:?}: {}", spec.name, spec.description),
                    )
                    .with("kind", kind),
                );
            } else if !spec.default.is_empty() {
                options.values.insert(spec.name, spec.default.to_owned());
            }
        }
        if faults.is_empty() { Ok(options) } else { Err(faults) }
    }

    /// The option's text, or its default's.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A whole number, checked by the catalogue; `None` where absent and without a default.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    /// `true` only where the option is set so.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// Seconds, checked by the catalogue.
    pub fn seconds(&self, name: &str) -> Option<Duration> {
        self.text(name)?.parse().ok().map(Duration::from_secs)
    }

    /// These options with `overrides` of a stream put over them; a key that is unknown or not per stream is a fault.
    pub fn overridden(&self, kind: &str, specs: &'static [OptionSpec], overrides: &BTreeMap<String, String>) -> Result<Self, Vec<ConfigFault>> {
        let mut faults = Vec::new();
        let mut options = self.clone();
        for (key, value) in overrides {
            match specs.iter().find(|spec| spec.name == key) {
                None => faults.push(unknown(kind, specs, key)),
                Some(spec) if !spec.per_stream => faults.push(ConfigFault::option(
                    ConfigFaultKind::InvalidOption,
                    key,
                    format!("option {key:?} belongs to the sink and cannot differ by stream; alter the sink"),
                )),
                Some(spec) => match check_value(spec, value) {
                    Err(fault) => faults.push(fault),
                    Ok(()) => {
                        options.values.insert(spec.name, value.clone());
                    }
                },
            }
        }
        if faults.is_empty() { Ok(options) } else { Err(faults) }
    }
}

fn unknown(kind: &str, specs: &[OptionSpec], key: &str) -> ConfigFault {
    let near = did_you_mean(key, specs.iter().map(|spec| spec.name));
    let hint = near.map(|name| format!("; did you mean {name:?}?")).unwrap_or_else(|| "; ShowSinkKinds lists those it knows".to_owned());
    let fault = ConfigFault::option(ConfigFaultKind::UnknownOption, key, format!("unknown option {key:?} for a {kind} sink{hint}")).with("kind", kind);
    match near {
        Some(name) => fault.with("did_you_mean", name),
        None => fault,
    }
}

/// The known word most like `word`, if one is alike enough to be meant.
pub fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro_winkler(&word.to_ascii_lowercase(), name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn check_value(spec: &OptionSpec, value: &str) -> Result<(), ConfigFault> {
    let allowed = match spec.option_type {
        OptionType::Text | OptionType::Name if value.is_empty() => "a text that is not empty".to_owned(),
        OptionType::Text | OptionType::Name => return Ok(()),
        OptionType::Bool if value == "true" || value == "false" => return Ok(()),
        OptionType::Bool => "true or false".to_owned(),
        OptionType::Int { min, max } => match value.parse::<i64>() {
            Ok(number) if (min..=max).contains(&number) => return Ok(()),
            _ => format!("a whole number from {min} to {max}"),
        },
        OptionType::Seconds { min, max } => match value.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => return Ok(()),
            _ => format!("whole seconds from {min} to {max}"),
        },
        OptionType::Enum(words) if words.contains(&value) => return Ok(()),
        OptionType::Enum(words) => words.join(", "),
    };
    // A secret option's value is not repeated in the message.
    let shown = if spec.secret { "its value".to_owned() } else { format!("{:?}", value.chars().take(100).collect::<String>()) };
    Err(ConfigFault::option(ConfigFaultKind::InvalidOption, spec.name, format!("{shown} is not allowed for option {:?}; allowed: {allowed}", spec.name))
        .with("allowed", allowed))
}
