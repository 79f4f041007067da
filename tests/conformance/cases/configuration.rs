//! Why: every fault of a configuration is told at creation, all at once, before anything is connected to. The options are those that the server lists: none is named here.

use std::collections::HashMap;

use datasink::api::pb::{CreateDataSinkRequest, OptionInfo, ShowSinkKindsRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    kind::Kind,
    stream::reason,
    world::{World, create_sink},
};

/// The faults of a request as `(field, description)`.
fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let found = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    found.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

/// What the server says about the options of the kind whose scheme the destination has.
async fn catalogue(world: &World) -> Vec<OptionInfo> {
    let kinds = world.admin().sinks().show_sink_kinds(ShowSinkKindsRequest::default()).await.unwrap().into_inner().kinds;
    let destination = world.target.sink().destination;
    let scheme = destination.split(':').next().unwrap();
    let kind = kinds.into_iter().find(|kind| kind.schemes.iter().any(|known| known == scheme)).expect("a kind with the destination's scheme");
    assert!(kind.available, "{}", kind.unavailable_reason);
    kind.options
}

/// The options of the sink as a map, the credential stored.
async fn working(world: &World) -> (String, HashMap<String, String>) {
    let spec = world.target.sink();
    create_sink(&world.admin(), "default.works", &spec).await.expect("the sink of every case can be made");
    let mut options: HashMap<String, String> = spec.options.into_iter().collect();
    if spec.credential.is_some() {
        options.insert("credential".to_owned(), "default.works".to_owned());
    }
    (spec.destination, options)
}

async fn propose(world: &World, destination: &str, options: HashMap<String, String>) -> Result<(), Status> {
    let request = CreateDataSinkRequest {
        name: "default.proposed".to_owned(),
        destination: destination.to_owned(),
        options,
        validate_only: true,
        ..CreateDataSinkRequest::default()
    };
    world.admin().sinks().create_data_sink(request).await.map(|_| ())
}

pub async fn required_options_missing(kind: &dyn Kind) {
    let world = World::bare(kind).await;
    let (destination, options) = working(&world).await;
    let (required, optional): (Vec<OptionInfo>, Vec<OptionInfo>) = catalogue(&world).await.into_iter().partition(|option| option.required);
    for option in &required {
        assert!(options.contains_key(&option.name), "the sink of every case has the required {:?}", option.name);
        let mut without = options.clone();
        without.remove(&option.name);
        let status = propose(&world, &destination, without).await.expect_err(&format!("without {:?} it is refused", option.name));
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MISSING_OPTION"), "{status:?}");
        assert!(status.message().contains(&option.name), "it names {:?}: {}", option.name, status.message());
    }
    if !required.is_empty() {
        let none: HashMap<String, String> = options.iter().filter(|(name, _)| required.iter().all(|option| option.name != **name)).map(owned).collect();
        let status = propose(&world, &destination, none).await.expect_err("without all of them it is refused");
        let told = violations(&status);
        for option in &required {
            assert!(told.iter().any(|(field, _)| field.contains(&option.name)), "all are told at once, {:?} is not: {told:?}", option.name);
        }
    }
    // What has a default may be left out: with no other option than those that some default lacks, the sink can still be made.
    let least = options.iter().filter(|(name, _)| optional.iter().all(|option| option.name != **name || option.default_value.is_empty())).map(owned).collect();
    propose(&world, &destination, least).await.expect("options with a default may be left out");
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

/// Values that the type of an option excludes.
fn malformed(option: &OptionInfo) -> Vec<&'static str> {
    match option.r#type.as_str() {
        "int" => vec!["", "x", "1.5", "99999999999999999999", "-99999999999"],
        "duration_seconds" => vec!["", "soon", "-1", "1.5", "5s", "99999999999999999999"],
        "bool" => vec!["", "maybe", "TRUE", "1"],
        "enum" => vec!["", "no-such-word"],
        "name" => vec!["", "a.b.c.d", "no good name!"],
        "string" => vec![""],
        other => panic!("the server lists {:?} as {other:?}, of which the interface knows nothing", option.name),
    }
}

pub async fn options_malformed(kind: &dyn Kind) {
    let world = World::bare(kind).await;
    let (destination, options) = working(&world).await;
    let known = catalogue(&world).await;
    let mut all = options.clone();
    for option in &known {
        for value in malformed(option) {
            let with = options.iter().map(owned).chain([(option.name.clone(), value.to_owned())]).collect();
            let Err(status) = propose(&world, &destination, with).await else { panic!("{:?} = {value:?} is taken", option.name) };
            assert!(matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition), "{:?} = {value:?}: {status:?}", option.name);
            assert!(status.message().contains(&option.name) || !violations(&status).is_empty(), "{:?} = {value:?}: {status:?}", option.name);
            if option.secret && !value.is_empty() {
                assert!(!format!("{status:?}").contains(value), "the value of a secret option is repeated: {status:?}");
            }
        }
        all.insert(option.name.clone(), malformed(option).last().unwrap().to_string());
        let misspelt = format!("{}x", option.name);
        let with = options.iter().map(owned).chain([(misspelt.clone(), "1".to_owned())]).collect();
        let status = propose(&world, &destination, with).await.expect_err("an unknown option is refused");
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "UNKNOWN_OPTION"), "{misspelt:?}: {status:?}");
    }
    let with: HashMap<String, String> = options.iter().map(owned).chain([("no_such_option".to_owned(), "1".to_owned())]).collect();
    let status = propose(&world, &destination, with).await.expect_err("an unknown option is refused");
    assert_eq!(reason(&status), "UNKNOWN_OPTION");
    all_at_once(&world, &destination, all, &known).await;
}

/// Every option malformed in one request: each is told, as far as the details of an error may grow.
async fn all_at_once(world: &World, destination: &str, all: HashMap<String, String>, known: &[OptionInfo]) {
    if known.is_empty() {
        return;
    }
    let status = propose(world, destination, all).await.expect_err("nothing of it is right");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let told = violations(&status);
    assert!(!told.is_empty(), "{status:?}");
    let told_of = known.iter().filter(|option| told.iter().any(|(field, _)| field.contains(&option.name))).count();
    assert!(told_of == known.len() || status.details().len() > 3_000, "{told_of} of {} faults are told: {told:?}", known.len());
}
