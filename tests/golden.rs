//! Why: what is written about the kinds of sink is made from their catalogues, so it cannot grow old. Never writes a file unless UPDATE_GOLDEN is set.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

use async_trait::async_trait;
use datasink::{
    connectors::{
        Kinds,
        connector::{Descriptor, Example, ExampleCredential, Guarantee, Kind, TableLookup},
        credential::credential_options,
        destination::Destination,
        error::ConnectorError,
        local::Local,
        options::{COMMON, OptionSpec, OptionType, Options},
    },
    name::QualifiedName,
    record::RecordSchema,
    store::{memory::MemoryStore, rows::Rows},
};
use serde_json::{Value, json};
use uuid::Uuid;

#[derive(Debug)]
struct NoTables;

#[async_trait]
impl TableLookup for NoTables {
    async fn find(&self, _: &QualifiedName) -> Result<Option<(Uuid, RecordSchema)>, ConnectorError> {
        Ok(None)
    }
}

fn kinds() -> Kinds {
    Kinds::standard(Local::new(Rows::new(Arc::new(MemoryStore::new()), 1 << 20), Arc::new(NoTables)))
}

fn documented(kinds: &Kinds) -> impl Iterator<Item = &Arc<dyn Kind>> {
    kinds.iter().filter(|kind| kind.descriptor().unavailable.is_none())
}

/// The sink's options as a caller gives them, and the name of its credential where it has one.
fn options_of(descriptor: &Descriptor, example: &Example) -> BTreeMap<String, String> {
    let credential = example.credential.as_ref().map(|_| ("credential".to_owned(), format!("default.{}_login", descriptor.kind)));
    example.options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).chain(credential).collect()
}

#[test]
fn the_page_of_every_kind_is_what_its_catalogue_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sinks");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let (mut stale, mut expected) = (Vec::new(), Vec::new());
    for kind in documented(&kinds()) {
        let name = format!("{}.md", kind.descriptor().kind);
        let page = page(kind.descriptor());
        let path = folder.join(&name);
        if update {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &page).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != page {
            stale.push(name.clone());
        }
        expected.push(name);
    }
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.contains(&name), "docs/sinks/{name} belongs to no kind of this build; remove it");
    }
    assert!(stale.is_empty(), "docs/sinks/ differs from the catalogue in {stale:?}; run `UPDATE_GOLDEN=1 cargo test --test golden` and read the difference");
}

#[test]
fn every_example_is_taken_as_it_is_written() {
    for kind in documented(&kinds()) {
        let descriptor = kind.descriptor();
        assert!(!descriptor.guide.basis.is_empty() && !descriptor.guide.examples.is_empty(), "{}", descriptor.kind);
        for example in descriptor.guide.examples {
            let scheme = example.scheme;
            let destination = Destination::parse(example.destination).unwrap();
            let options = Options::check(descriptor.kind.as_str(), descriptor.options, &options_of(descriptor, example))
                .unwrap_or_else(|faults| panic!("{} {scheme}: {faults:?}", descriptor.kind));
            let connector = kind.configure(&destination, &options).unwrap_or_else(|faults| panic!("{} {scheme}: {faults:?}", descriptor.kind));
            if let Some(credential) = &example.credential {
                assert!(connector.accepts(credential.credential_type), "{} {scheme}", descriptor.kind);
                let known: Vec<&str> = credential_options(credential.credential_type).iter().map(|option| option.name).collect();
                for (key, value) in credential.options {
                    let spec = credential_options(credential.credential_type).iter().find(|spec| spec.name == *key);
                    let spec = spec.unwrap_or_else(|| panic!("{} {scheme}: {key} is not among {known:?}", descriptor.kind));
                    assert!(!spec.secret || value.starts_with('<'), "{} {scheme}: {key} shows something secret", descriptor.kind);
                }
                assert!(credential.secret.is_empty() || credential.secret.starts_with('<'), "{} {scheme}: the secret is shown", descriptor.kind);
            }
        }
    }
}

fn page(descriptor: &Descriptor) -> String {
    let kind = descriptor.kind;
    let mut page =
        format!("<!-- Made from the catalogue by `UPDATE_GOLDEN=1 cargo test --test golden`; change src/connectors/{kind}/ instead. -->\n\n# {kind} sinks\n\n");
    let schemes: Vec<String> = descriptor.schemes.iter().map(|scheme| format!("`{scheme}`")).collect();
    let _ = writeln!(page, "Destination: `{}` (scheme {}).\n", descriptor.example_destination, schemes.join(", "));
    let _ = writeln!(page, "## What is promised\n\n**{}** at best. {}\n", guarantee(descriptor.guarantee), descriptor.guide.basis);
    let on_finish = if descriptor.commit_on_finish { "taken: nothing is visible before finish, everything after" } else { "refused" };
    let _ = writeln!(page, "`COMMIT_MODE_ON_FINISH` is {on_finish}. What a session really has is in `opened.delivery`, with its reason in words.\n");
    let _ = writeln!(page, "## Limits\n");
    for limit in descriptor.guide.limits {
        let _ = writeln!(page, "- {limit}");
    }
    let _ = writeln!(page, "\n## Options of the kind\n");
    table(&mut page, descriptor.options.iter().filter(|option| COMMON.iter().all(|common| common.name != option.name)));
    let _ = writeln!(page, "\n## Options of every kind\n");
    table(&mut page, descriptor.options.iter().filter(|option| COMMON.iter().any(|common| common.name == option.name)));
    for credential in descriptor.credential_types {
        let options = credential_options(*credential);
        if !options.is_empty() {
            let _ = writeln!(page, "\n## Options of a credential of type {credential}\n");
            table(&mut page, options.iter());
        }
    }
    let _ = writeln!(page, "\n## Examples\n\nOne for each scheme of authentication, as gRPC (grpcurl), SQL and Python (stubs generated from `proto/`).");
    let _ =
        writeln!(page, "A word in angle brackets stands for a secret. SQL goes to `SqlService/ExecuteSql`, which answers UNIMPLEMENTED in a build without it.");
    for example in descriptor.guide.examples {
        write_example(&mut page, descriptor, example);
    }
    page
}

fn guarantee(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::AtLeastOnce => "At least once",
        Guarantee::Idempotent => "Idempotent",
        Guarantee::ExactlyOnce => "Exactly once",
    }
}

fn table<'a>(page: &mut String, options: impl Iterator<Item = &'a OptionSpec>) {
    let mut rows = String::new();
    for option in options {
        let allowed = match option.option_type {
            OptionType::Text => "text".to_owned(),
            OptionType::Bool => "`true`, `false`".to_owned(),
            OptionType::Int { min, max } => format!("{min} to {max}"),
            OptionType::Seconds { min, max } => format!("{min} to {max} seconds"),
            OptionType::Enum(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            OptionType::Name => "`[schema.]name`".to_owned(),
        };
        let default = match (option.required, option.default) {
            (true, _) => "required".to_owned(),
            (false, "") => "–".to_owned(),
            (false, default) => format!("`{default}`"),
        };
        let marks = match (option.secret, option.per_stream) {
            (true, _) => " Secret: sealed, and never shown again.",
            (false, true) => " May differ by stream.",
            (false, false) => "",
        };
        let _ = writeln!(rows, "| `{}` | {allowed} | {default} | {}{marks} |", option.name, option.description.replace('|', "\\|"));
    }
    if rows.is_empty() {
        let _ = writeln!(page, "None.");
    } else {
        let _ = write!(page, "| Option | Allowed | Default | Meaning |\n|---|---|---|---|\n{rows}");
    }
}

fn write_example(page: &mut String, descriptor: &Descriptor, example: &Example) {
    let (sink, login) = (format!("default.{}_sink", descriptor.kind), format!("default.{}_login", descriptor.kind));
    let options = options_of(descriptor, example);
    let _ = writeln!(page, "\n### {}\n\n```sh", example.scheme);
    if let Some(credential) = &example.credential {
        let _ = writeln!(page, "grpcurl -d '{}' $A datasink.v1.CredentialService/CreateCredential", credential_json(&login, credential));
    }
    let request = json!({ "name": sink, "destination": example.destination, "options": options });
    let _ = writeln!(page, "grpcurl -d '{request}' $A datasink.v1.DataSinkService/CreateDataSink\n```\n\n```sql");
    if let Some(credential) = &example.credential {
        let _ = writeln!(page, "{}", credential_sql(&login, credential));
    }
    let _ = writeln!(
        page,
        "CREATE DATA SINK {sink}\nLOCATION = '{}'{};\n```\n\n```python",
        example.destination,
        sql_options(options.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    );
    if let Some(credential) = &example.credential {
        let _ = writeln!(page, "{}", credential_python(&login, credential));
    }
    let _ = writeln!(
        page,
        "sinks.CreateDataSink(pb.CreateDataSinkRequest(name={sink:?}, destination={:?}, options={}))\n```",
        example.destination,
        python_map(options.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    );
}

fn type_of(credential: &ExampleCredential) -> String {
    format!("CREDENTIAL_TYPE_{}", credential.credential_type.as_str().to_uppercase())
}

fn credential_json(name: &str, credential: &ExampleCredential) -> Value {
    let mut request = json!({ "name": name, "type": type_of(credential) });
    let given = [("identity", credential.identity), ("secret", credential.secret)];
    for (key, value) in given.into_iter().filter(|(_, value)| !value.is_empty()) {
        request[key] = value.into();
    }
    if !credential.options.is_empty() {
        request["options"] = credential
            .options
            .iter()
            .copied()
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    request
}

fn credential_sql(name: &str, credential: &ExampleCredential) -> String {
    let given = [("IDENTITY", credential.identity), ("SECRET", credential.secret)];
    let given: String = given.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!(",\n  {key} = '{value}'")).collect();
    format!("CREATE CREDENTIAL {name}\n  TYPE = '{}'{given}{};", credential.credential_type, sql_options(credential.options.iter().copied()))
}

fn sql_options<'a>(options: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let options: Vec<String> = options
        .map(|(key, value)| if key.contains('.') { format!("  '{key}' = '{value}'") } else { format!("  {} = '{value}'", key.to_uppercase()) })
        .collect();
    if options.is_empty() { String::new() } else { format!("\nWITH OPTIONS (\n{}\n)", options.join(",\n")) }
}

fn credential_python(name: &str, credential: &ExampleCredential) -> String {
    let given = [("identity", credential.identity), ("secret", credential.secret)];
    let given: String = given.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| format!(", {key}={value:?}")).collect();
    let options = if credential.options.is_empty() { String::new() } else { format!(", options={}", python_map(credential.options.iter().copied())) };
    format!("credentials.CreateCredential(pb.CreateCredentialRequest(name={name:?}, type=pb.{}{given}{options}))", type_of(credential))
}

fn python_map<'a>(options: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let entries: Vec<String> = options.map(|(key, value)| format!("{key:?}: {value:?}")).collect();
    format!("{{{}}}", entries.join(", "))
}
