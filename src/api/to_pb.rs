//! Why: the domain's answers become messages, field by field. Never adds a field that the domain did not mean to show.

use std::time::Duration;

use super::{pb, status};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::{Artifact, CommitMode, Descriptor, Guarantee, Probe, ProbeStep, SinkKind, StepResult},
        credential::CredentialType,
        error::ConnectorErrorKind,
        options::OptionSpec,
    },
    delivery::{
        Ack, Counts, DestinationState, DestinationStatus, Disposition, DrainReason, EndReason, Ended, RecordError, RecordErrorPolicy, RecordErrors,
        SessionOpened, SinkSnapshot, Source, Window,
    },
    domain, limits,
    problem::{Problem, Reason},
    record::{
        Batch, Column, ColumnType, Encoding, JsonObject, JsonValue, Payload, RecordFault, RecordFaultKind, RecordFaults, RecordSchema, Records, TypedValue,
        encode,
    },
};

/// An unsigned number as the interface's int64; nothing we count comes near its end.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A duration; longer than 292 thousand million years is the longest.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: int(duration.as_secs()), nanos: duration.subsec_nanos().cast_signed() }
}

pub(super) fn timestamp(timestamp: Timestamp) -> prost_types::Timestamp {
    let micros = timestamp.micros();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000).expect("less than a second of nanoseconds fits");
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

// Enumerations.

/// The numbers are the interface's own.
fn sink_kind(kind: SinkKind) -> i32 {
    kind as i32
}

fn credential_type(credential_type: CredentialType) -> i32 {
    (match credential_type {
        CredentialType::AwsAccessKey => pb::CredentialType::AwsAccessKey,
        CredentialType::AwsIamRole => pb::CredentialType::AwsIamRole,
        CredentialType::AzureAd => pb::CredentialType::AzureAd,
        CredentialType::AzureOauth => pb::CredentialType::AzureOauth,
        CredentialType::AzureSas => pb::CredentialType::AzureSas,
        CredentialType::AzureStorageKey => pb::CredentialType::AzureStorageKey,
        CredentialType::GcsServiceAccountId => pb::CredentialType::GcsServiceAccountId,
        CredentialType::GcsServiceAccountKeys => pb::CredentialType::GcsServiceAccountKeys,
        CredentialType::Hdfs => pb::CredentialType::Hdfs,
        CredentialType::Jdbc => pb::CredentialType::Jdbc,
        CredentialType::Kafka => pb::CredentialType::Kafka,
        CredentialType::Confluent => pb::CredentialType::Confluent,
        CredentialType::Rest => pb::CredentialType::Rest,
    }) as i32
}

fn object_type(object_type: domain::ObjectType) -> i32 {
    (match object_type {
        domain::ObjectType::DataSink => pb::ObjectType::DataSink,
        domain::ObjectType::Credential => pb::ObjectType::Credential,
        domain::ObjectType::Schema => pb::ObjectType::Schema,
        domain::ObjectType::Table => pb::ObjectType::Table,
        domain::ObjectType::TableMonitor => pb::ObjectType::TableMonitor,
        domain::ObjectType::Directory => pb::ObjectType::Directory,
        domain::ObjectType::System => pb::ObjectType::System,
    }) as i32
}

fn permission(permission: domain::Permission) -> i32 {
    (match permission {
        domain::Permission::Admin => pb::PermissionKind::Admin,
        domain::Permission::Connect => pb::PermissionKind::Connect,
        domain::Permission::Create => pb::PermissionKind::Create,
        domain::Permission::Read => pb::PermissionKind::Read,
        domain::Permission::Insert => pb::PermissionKind::Insert,
        domain::Permission::Update => pb::PermissionKind::Update,
        domain::Permission::Delete => pb::PermissionKind::Delete,
        domain::Permission::Write => pb::PermissionKind::Write,
        domain::Permission::Monitor => pb::PermissionKind::Monitor,
        domain::Permission::UserAdmin => pb::PermissionKind::UserAdmin,
    }) as i32
}

pub(super) fn guarantee(guarantee: Guarantee) -> i32 {
    (match guarantee {
        Guarantee::AtLeastOnce => pb::DeliveryGuarantee::AtLeastOnce,
        Guarantee::Idempotent => pb::DeliveryGuarantee::Idempotent,
        Guarantee::ExactlyOnce => pb::DeliveryGuarantee::ExactlyOnce,
    }) as i32
}

fn commit_mode(mode: CommitMode) -> i32 {
    (match mode {
        CommitMode::Continuous => pb::CommitMode::Continuous,
        CommitMode::OnFinish => pb::CommitMode::OnFinish,
    }) as i32
}

fn encoding(encoding: Encoding) -> i32 {
    (match encoding {
        Encoding::Ndjson => pb::RecordEncoding::Ndjson,
        Encoding::Json => pb::RecordEncoding::Json,
        Encoding::Typed => pb::RecordEncoding::Typed,
        Encoding::ArrowIpc => pb::RecordEncoding::ArrowIpc,
    }) as i32
}

fn policy(policy: RecordErrorPolicy) -> i32 {
    (match policy {
        RecordErrorPolicy::Stop => pb::RecordErrorPolicy::Stop,
        RecordErrorPolicy::Skip => pb::RecordErrorPolicy::Skip,
        RecordErrorPolicy::DeadLetter => pb::RecordErrorPolicy::DeadLetter,
    }) as i32
}

/// Rows in the encoding that was asked for.
pub(super) fn record_batch(rows: &Batch, encoding: Encoding, schema: &RecordSchema) -> Result<pb::RecordBatch, RecordFaults> {
    use pb::record_batch::Payload as Wire;
    let text = match &rows.records {
        Records::Ndjson(text) => text.clone(),
        Records::Arrow(_) => match rows.to_ndjson()?.records {
            Records::Ndjson(text) => text,
            Records::Arrow(_) => unreachable!("to_ndjson gives text"),
        },
    };
    let payload = match encode(&text, encoding, schema)? {
        Payload::Ndjson(bytes) => Wire::Ndjson(bytes),
        Payload::Json(objects) => Wire::Json(pb::JsonRecords { records: objects.into_iter().map(object).collect() }),
        Payload::Typed(records) => Wire::Typed(pb::TypedRecords { records: records.into_iter().map(typed_record).collect() }),
        Payload::ArrowIpc(bytes) => Wire::ArrowIpc(bytes),
    };
    let record_count = i32::try_from(rows.len()).expect("a message of rows has fewer than 2^31");
    Ok(pb::RecordBatch { first_offset: Some(int(rows.first_offset)), record_count, payload: Some(payload), ..Default::default() })
}

fn object(object: JsonObject) -> prost_types::Struct {
    prost_types::Struct { fields: object.0.into_iter().map(|(name, value)| (name, json(value))).collect() }
}

fn json(value: JsonValue) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match value {
        JsonValue::Null => Kind::NullValue(0),
        JsonValue::Bool(truth) => Kind::BoolValue(truth),
        JsonValue::Number(number) => Kind::NumberValue(number),
        JsonValue::String(text) => Kind::StringValue(text),
        JsonValue::Array(items) => Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(json).collect() }),
        JsonValue::Object(inner) => Kind::StructValue(object(inner)),
    };
    prost_types::Value { kind: Some(kind) }
}

fn typed_record(values: Vec<TypedValue>) -> pb::TypedRecord {
    use pb::value::Kind;
    let one = |value| {
        let kind = match value {
            TypedValue::Null => Kind::NullValue(0),
            TypedValue::Bool(value) => Kind::BoolValue(value),
            TypedValue::Int(value) => Kind::IntValue(value),
            TypedValue::Uint(value) => Kind::UintValue(value),
            TypedValue::Double(value) => Kind::DoubleValue(value),
            TypedValue::String(value) => Kind::StringValue(value),
            TypedValue::Bytes(value) => Kind::BytesValue(value.into()),
            TypedValue::Timestamp(value) => Kind::TimestampValue(timestamp(value)),
        };
        pb::Value { kind: Some(kind) }
    };
    pb::TypedRecord { values: values.into_iter().map(one).collect() }
}

/// The reason a record's fault has in the interface.
pub(super) fn fault_reason(kind: RecordFaultKind) -> Reason {
    match kind {
        RecordFaultKind::Unparsable => Reason::RecordUnparsable,
        RecordFaultKind::Invalid => Reason::RecordInvalid,
        RecordFaultKind::TooLarge => Reason::RecordTooLarge,
    }
}

// Schemas.

pub(super) fn schema(view: domain::SchemaView) -> pb::Schema {
    let domain::SchemaView { name, owner, created, object_counts } = view;
    let object_counts = object_counts.into_iter().map(|(kind, count)| (kind, int(count))).collect();
    pb::Schema { name: name.to_string(), owner: owner.to_string(), create_time: Some(timestamp(created)), object_counts }
}

// Credentials.

pub(super) fn credential(view: domain::CredentialView) -> pb::Credential {
    let domain::CredentialView {
        name,
        uid,
        credential_type: kind,
        identity,
        secret_set,
        secret_version,
        secret_updated,
        options,
        owner,
        generation,
        etag,
        created,
        updated,
        used_by,
    } = view;
    pb::Credential {
        name: name.to_string(),
        uid: uid.to_string(),
        r#type: credential_type(kind),
        identity,
        secret_set,
        secret_version: int(secret_version),
        secret_update_time: secret_updated.map(timestamp),
        options: options.into_iter().collect(),
        owner: owner.to_string(),
        generation: int(generation),
        etag,
        create_time: Some(timestamp(created)),
        update_time: Some(timestamp(updated)),
        used_by,
    }
}

// Data sinks.

pub(super) fn data_sink(view: domain::DataSinkView) -> pb::DataSink {
    let domain::DataSinkView {
        name,
        uid,
        kind,
        destination,
        options,
        credential,
        owner,
        generation,
        etag,
        created,
        updated,
        last_check,
        status,
        live_sessions,
        dependents,
    } = view;
    pb::DataSink {
        name: name.to_string(),
        uid: uid.to_string(),
        kind: sink_kind(kind),
        destination,
        options: options.into_iter().collect(),
        credential: credential.map(|name| name.to_string()).unwrap_or_default(),
        owner: owner.to_string(),
        generation: int(generation),
        etag,
        create_time: Some(timestamp(created)),
        update_time: Some(timestamp(updated)),
        last_check: last_check.map(check),
        status: status.map(|status| destination_status(&status)),
        live_sessions: int(live_sessions),
        dependents,
    }
}

pub(super) fn check(probe: Probe) -> pb::DestinationCheck {
    let passed = probe.passed();
    let Probe { steps, checked } = probe;
    pb::DestinationCheck { passed, steps: steps.into_iter().map(step).collect(), check_time: Some(timestamp(checked)) }
}

fn step(step: ProbeStep) -> pb::CheckStep {
    let ProbeStep { name, result, elapsed, details } = step;
    let (status, problem) = match result {
        StepResult::Passed => (pb::CheckStatus::Passed, None),
        StepResult::Skipped => (pb::CheckStatus::Skipped, None),
        StepResult::Failed { error, message } => {
            let mut problem = Problem::new(probe_reason(error.kind), message);
            problem.metadata = error.details;
            (pb::CheckStatus::Failed, Some(status::in_band(&problem)))
        }
    };
    pb::CheckStep { name, status: status as i32, elapsed: Some(duration(elapsed)), details: details.into_iter().collect(), problem }
}

/// The reason a failed step has in the interface.
fn probe_reason(kind: ConnectorErrorKind) -> Reason {
    match kind {
        ConnectorErrorKind::Unreachable | ConnectorErrorKind::BlockedAddress => Reason::DestinationUnreachable,
        ConnectorErrorKind::TimedOut => Reason::DestinationTimeout,
        ConnectorErrorKind::Tls => Reason::DestinationTls,
        ConnectorErrorKind::Unauthenticated => Reason::DestinationAuthFailed,
        ConnectorErrorKind::PermissionDenied => Reason::DestinationForbidden,
        ConnectorErrorKind::NotFound => Reason::DestinationNotFound,
        ConnectorErrorKind::Throttled => Reason::DestinationThrottled,
        ConnectorErrorKind::SchemaMismatch => Reason::DestinationSchemaMismatch,
        ConnectorErrorKind::Rejected | ConnectorErrorKind::TooLarge | ConnectorErrorKind::WentBack => Reason::DestinationRejected,
        ConnectorErrorKind::Fenced => Reason::StreamFenced,
        ConnectorErrorKind::Unknown => Reason::DestinationOutcomeUnknown,
        ConnectorErrorKind::Misconfigured => Reason::InvalidOption,
        ConnectorErrorKind::Store => Reason::StoreUnavailable,
        ConnectorErrorKind::Internal => Reason::Internal,
    }
}

pub(super) fn kind(descriptor: &Descriptor) -> pb::SinkKindInfo {
    let Descriptor { kind, schemes, example_destination, options, credential_types, guarantee: strongest, commit_on_finish, unavailable, guide: _ } =
        descriptor;
    pb::SinkKindInfo {
        kind: sink_kind(*kind),
        schemes: schemes.iter().map(|scheme| (*scheme).to_owned()).collect(),
        example_destination: (*example_destination).to_owned(),
        options: options.iter().map(option).collect(),
        credential_types: credential_types.iter().map(|kind| credential_type(*kind)).collect(),
        delivery: guarantee(*strongest),
        commit_on_finish: *commit_on_finish,
        available: unavailable.is_none(),
        unavailable_reason: unavailable.unwrap_or_default().to_owned(),
    }
}

fn option(spec: &OptionSpec) -> pb::OptionInfo {
    let OptionSpec { name, option_type, required, default, secret, per_stream: _, description, conflicts_with, bearing: _ } = spec;
    let allowed_values = match option_type {
        crate::connectors::options::OptionType::Enum(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        _ => Vec::new(),
    };
    pb::OptionInfo {
        name: (*name).to_owned(),
        r#type: option_type.as_str().to_owned(),
        required: *required,
        default_value: (*default).to_owned(),
        allowed_values,
        secret: *secret,
        description: (*description).to_owned(),
        conflicts_with: conflicts_with.iter().map(|name| (*name).to_owned()).collect(),
    }
}

// Permissions and principals.

pub(super) fn grant(view: domain::GrantView) -> pb::Grant {
    let domain::GrantView { principal, object_type: kind, object, permission: right, with_grant_option, grantor, created, via } = view;
    pb::Grant {
        principal: principal.to_string(),
        object_type: object_type(kind),
        object,
        permission: permission(right),
        with_grant_option,
        grantor: grantor.to_string(),
        create_time: Some(timestamp(created)),
        via,
    }
}

pub(super) fn principal(view: domain::PrincipalView) -> pb::Principal {
    let domain::PrincipalView { name, kind, identities, roles, default_schema, etag, created, password_set, disabled } = view;
    let kind = match kind {
        domain::PrincipalKind::User => pb::PrincipalKind::User,
        domain::PrincipalKind::Role => pb::PrincipalKind::Role,
    };
    pb::Principal {
        name: name.to_string(),
        kind: kind as i32,
        identities,
        roles: roles.iter().map(ToString::to_string).collect(),
        default_schema: default_schema.map(|name| name.to_string()).unwrap_or_default(),
        etag,
        create_time: Some(timestamp(created)),
        password_set,
        disabled,
    }
}

pub(super) fn access_token(view: domain::AccessTokenView) -> pb::AccessToken {
    let domain::AccessTokenView { id, principal, description, created, expires, last_used } = view;
    pb::AccessToken {
        id,
        principal: principal.to_string(),
        description,
        create_time: Some(timestamp(created)),
        expire_time: Some(timestamp(expires)),
        last_used_time: last_used.map(timestamp),
    }
}

/// The one answer that holds a token.
pub(super) fn created_access_token(made: domain::CreatedAccessToken) -> pb::CreateAccessTokenResponse {
    let domain::CreatedAccessToken { access_token: view, token } = made;
    let token = token.as_ref().and_then(|token| token.expose_text()).unwrap_or_default().to_owned();
    pb::CreateAccessTokenResponse { access_token: Some(access_token(view)), token }
}

// Records and tables.

pub(super) fn record_schema(schema: &RecordSchema) -> pb::RecordSchema {
    let RecordSchema { columns } = schema;
    pb::RecordSchema { columns: columns.iter().map(column).collect() }
}

fn column(column: &Column) -> pb::Column {
    let Column { name, column_type, nullable, max_length, primary_key } = column;
    let (kind, precision, scale) = match column_type {
        ColumnType::Bool => (pb::ColumnType::Bool, 0, 0),
        ColumnType::Int8 => (pb::ColumnType::Int8, 0, 0),
        ColumnType::Int16 => (pb::ColumnType::Int16, 0, 0),
        ColumnType::Int32 => (pb::ColumnType::Int32, 0, 0),
        ColumnType::Int64 => (pb::ColumnType::Int64, 0, 0),
        ColumnType::Uint64 => (pb::ColumnType::Uint64, 0, 0),
        ColumnType::Float => (pb::ColumnType::Float, 0, 0),
        ColumnType::Double => (pb::ColumnType::Double, 0, 0),
        ColumnType::Decimal { precision, scale } => (pb::ColumnType::Decimal, i32::from(*precision), i32::from(*scale)),
        ColumnType::String => (pb::ColumnType::String, 0, 0),
        ColumnType::Bytes => (pb::ColumnType::Bytes, 0, 0),
        ColumnType::Date => (pb::ColumnType::Date, 0, 0),
        ColumnType::Time => (pb::ColumnType::Time, 0, 0),
        ColumnType::Timestamp => (pb::ColumnType::Timestamp, 0, 0),
        ColumnType::Uuid => (pb::ColumnType::Uuid, 0, 0),
        ColumnType::Json => (pb::ColumnType::Json, 0, 0),
    };
    pb::Column {
        name: name.clone(),
        r#type: kind as i32,
        nullable: *nullable,
        precision,
        scale,
        max_length: i32::try_from(*max_length).unwrap_or(i32::MAX),
        primary_key: *primary_key,
        default_expression: String::new(),
    }
}

pub(super) fn table(view: domain::TableView) -> pb::Table {
    let domain::TableView { name, uid, schema, owner, row_count, etag, created, table_monitors } = view;
    pb::Table {
        name: name.to_string(),
        uid: uid.to_string(),
        schema: Some(record_schema(&schema)),
        owner: owner.to_string(),
        row_count: int(row_count),
        etag,
        create_time: Some(timestamp(created)),
        table_monitors,
    }
}

pub(super) fn inserted_rows(rows: domain::InsertedRows) -> pb::InsertRowsResponse {
    let domain::InsertedRows { inserted, updated, ignored } = rows;
    pb::InsertRowsResponse { inserted: int(inserted), updated: int(updated), ignored: int(ignored) }
}

// Push.

/// What the transport adds to a session's own answer to open.
#[derive(Debug)]
pub(super) struct OpenedBy<'a> {
    /// How often it sends a heartbeat.
    pub heartbeat_interval: Duration,
    /// Which server process this is.
    pub instance: &'a str,
}

pub(super) fn opened(session: &SessionOpened, by: &OpenedBy<'_>) -> pb::StreamOpened {
    let SessionOpened { stream, epoch, next_offset, sink, delivery, policy: errors, commit_mode: mode, window: room, encodings, schema, rolled_back } = session;
    pb::StreamOpened {
        stream: stream.name.to_string(),
        epoch: int(epoch.0),
        next_offset: int(*next_offset),
        sink: Some(resolved_sink(sink)),
        delivery: guarantee(delivery.guarantee),
        record_error_policy: policy(*errors),
        commit_mode: commit_mode(*mode),
        window: Some(window(*room)),
        max_batch_bytes: int(limits::BATCH_BYTES_MAX as u64),
        heartbeat_interval: Some(duration(by.heartbeat_interval)),
        encodings: encodings.iter().map(|known| encoding(*known)).collect(),
        server_instance: by.instance.to_owned(),
        destination_schema: schema.as_ref().map(record_schema),
        rolled_back: *rolled_back,
        delivery_basis: delivery.basis.clone(),
    }
}

fn resolved_sink(sink: &SinkSnapshot) -> pb::ResolvedSink {
    let SinkSnapshot { name, uid, generation, destination_generation: _, kind, destination } = sink;
    pb::ResolvedSink { name: name.to_string(), uid: uid.to_string(), generation: int(*generation), kind: sink_kind(*kind), destination: destination.clone() }
}

fn window(window: Window) -> pb::FlowWindow {
    let Window { records, bytes } = window;
    pb::FlowWindow { max_outstanding_records: int(records), max_outstanding_bytes: int(bytes) }
}

pub(super) fn counts(counts: Counts) -> pb::StreamCounts {
    let Counts { delivered, rejected, duplicates, delivered_bytes } = counts;
    pb::StreamCounts {
        delivered_records: int(delivered),
        rejected_records: int(rejected),
        duplicate_records: int(duplicates),
        delivered_bytes: int(delivered_bytes),
    }
}

pub(super) fn artifact(artifact: Artifact) -> pb::Artifact {
    let Artifact { uri, first_offset, record_count, byte_count, attributes } = artifact;
    pb::Artifact {
        uri,
        first_offset: int(first_offset),
        record_count: int(record_count),
        byte_count: int(byte_count),
        attributes: attributes.into_iter().collect(),
    }
}

pub(super) fn ack(ack: Ack) -> pb::StreamAck {
    let Ack { next_offset, counts: totals, flush_token, committed, artifacts } = ack;
    pb::StreamAck {
        next_offset: int(next_offset),
        counts: Some(counts(totals)),
        flush_token: flush_token.unwrap_or_default(),
        commit_time: Some(timestamp(committed)),
        artifacts: artifacts.into_iter().map(artifact).collect(),
    }
}

pub(super) fn record_errors(errors: RecordErrors) -> pb::RecordErrors {
    let RecordErrors { errors, more } = errors;
    pb::RecordErrors { errors: errors.into_iter().map(record_error).collect(), more: int(more) }
}

fn record_error(error: RecordError) -> pb::RecordError {
    let RecordError { offset, index, fault: RecordFault { kind, message, column }, disposition } = error;
    let disposition = match disposition {
        Disposition::Stopped => pb::RecordDisposition::Stopped,
        Disposition::Skipped => pb::RecordDisposition::Skipped,
        Disposition::DeadLettered => pb::RecordDisposition::DeadLettered,
    };
    pb::RecordError {
        offset: int(offset),
        index: i32::try_from(index).unwrap_or(i32::MAX),
        reason: fault_reason(kind) as i32,
        message,
        column: column.unwrap_or_default(),
        disposition: disposition as i32,
    }
}

pub(super) fn destination_status(status: &DestinationStatus) -> pb::DestinationStatus {
    let DestinationStatus { state, problem, attempt, next_attempt, last_success } = status;
    let state = match state {
        DestinationState::Healthy => pb::DestinationState::Healthy,
        DestinationState::Retrying => pb::DestinationState::Retrying,
        DestinationState::Throttled => pb::DestinationState::Throttled,
        DestinationState::Refused => pb::DestinationState::Refused,
    };
    pb::DestinationStatus {
        state: state as i32,
        problem: problem.as_ref().map(status::in_band),
        attempt: i32::try_from(*attempt).unwrap_or(i32::MAX),
        next_attempt_time: next_attempt.map(timestamp),
        last_success_time: last_success.map(timestamp),
    }
}

pub(super) fn drain(reason: DrainReason, deadline: Timestamp, reconnect_after: Duration) -> pb::DrainNotice {
    let reason = match reason {
        DrainReason::Shutdown => pb::DrainReason::Shutdown,
        DrainReason::Rebalance => pb::DrainReason::Rebalance,
        DrainReason::SinkAltered => pb::DrainReason::SinkAltered,
    };
    pb::DrainNotice { reason: reason as i32, deadline: Some(timestamp(deadline)), reconnect_after: Some(duration(reconnect_after)) }
}

pub(super) fn heartbeat(next_offset: u64, now: Timestamp, ping_id: i64) -> pb::Heartbeat {
    pb::Heartbeat { next_offset: int(next_offset), server_time: Some(timestamp(now)), ping_id }
}

pub(super) fn ended(ended: Ended) -> pb::StreamEnded {
    let Ended { reason, next_offset, counts: totals, artifacts, resumable } = ended;
    let reason = match reason {
        EndReason::Committed => pb::EndReason::Committed,
        EndReason::Aborted => pb::EndReason::Aborted,
        EndReason::HalfClosed => pb::EndReason::HalfClosed,
        EndReason::Drained => pb::EndReason::Drained,
    };
    pb::StreamEnded {
        reason: reason as i32,
        next_offset: int(next_offset),
        counts: Some(counts(totals)),
        artifacts: artifacts.into_iter().map(artifact).collect(),
        resumable,
    }
}

pub(super) fn pushed_once(pushed: domain::PushedOnce, replayed: bool) -> pb::PushOnceResponse {
    let domain::PushedOnce { next_offset, counts: own, record_errors: errors, artifacts, guarantee: given, committed } = pushed;
    pb::PushOnceResponse {
        next_offset: int(next_offset),
        counts: Some(counts(own)),
        record_errors: Some(record_errors(errors)),
        artifacts: artifacts.into_iter().map(artifact).collect(),
        delivery: guarantee(given),
        commit_time: Some(timestamp(committed)),
        replayed,
    }
}

pub(super) fn push_stream(view: domain::PushStreamView) -> pb::PushStreamInfo {
    use pb::push_stream_info::Source as Wire;
    let domain::PushStreamView {
        stream,
        data_sink,
        source,
        epoch,
        next_offset,
        counts: totals,
        guarantee: given,
        commit_mode: mode,
        finished,
        live,
        principal,
        client_id,
        peer,
        outstanding,
        destination_status: destination,
        opened,
        acknowledged,
    } = view;
    let source = match source {
        Source::TableMonitor(name) => Wire::TableMonitor(name),
        Source::ExportJob(name) => Wire::ExportJob(name),
        Source::Adhoc(label) => Wire::Adhoc(label),
    };
    pb::PushStreamInfo {
        stream,
        data_sink: data_sink.to_string(),
        epoch: int(epoch.0),
        next_offset: int(next_offset),
        counts: Some(counts(totals)),
        delivery: given.map_or(0, guarantee),
        commit_mode: commit_mode(mode),
        finished,
        live,
        principal,
        client_id,
        peer,
        outstanding_records: int(outstanding.records),
        outstanding_bytes: int(outstanding.bytes),
        destination_status: destination.as_ref().map(destination_status),
        open_time: opened.map(timestamp),
        last_ack_time: acknowledged.map(timestamp),
        source: Some(source),
    }
}

// The server.

/// `warnings`: what is open that should not be, told beside the features.
pub(super) fn server(view: domain::ServerView, draining: bool, warnings: &[&'static str]) -> pb::ShowServerResponse {
    let domain::ServerView { version, git_commit, instance, started, live_streams, features, limits } = view;
    pb::ShowServerResponse {
        version: version.to_owned(),
        git_commit: git_commit.to_owned(),
        instance,
        start_time: Some(timestamp(started)),
        draining,
        live_streams: int(live_streams),
        features: features.into_iter().chain(warnings.iter().copied()).map(str::to_owned).collect(),
        limits: limits.into_iter().map(|(name, bound)| (name.to_owned(), int(bound))).collect(),
    }
}

pub(super) fn who_am_i(who: domain::WhoAmI, trace_id: String) -> pb::WhoAmIResponse {
    let domain::WhoAmI { principal, roles, default_schema, source, identity, peer } = who;
    let source = match source {
        domain::IdentitySource::Anonymous => pb::IdentitySource::Anonymous,
        domain::IdentitySource::ClientCertificate => pb::IdentitySource::ClientCertificate,
        domain::IdentitySource::ForwardedCertificate => pb::IdentitySource::ForwardedCertificate,
        domain::IdentitySource::Linkerd => pb::IdentitySource::Linkerd,
        domain::IdentitySource::Token => pb::IdentitySource::Token,
        domain::IdentitySource::Password => pb::IdentitySource::Password,
    };
    pb::WhoAmIResponse {
        principal: principal.to_string(),
        roles: roles.iter().map(ToString::to_string).collect(),
        default_schema: default_schema.map(|name| name.to_string()).unwrap_or_default(),
        source: source as i32,
        identity,
        peer,
        trace_id,
    }
}

pub(super) fn drained(drained: domain::DrainedServer) -> pb::DrainServerResponse {
    let domain::DrainedServer { draining_streams } = drained;
    pb::DrainServerResponse { draining_streams: int(draining_streams) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_1970_keep_their_nanoseconds_positive() {
        let wire = timestamp(Timestamp::from_micros(-1));
        assert_eq!((wire.seconds, wire.nanos), (-1, 999_999_000));
    }
}
