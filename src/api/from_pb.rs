//! Why: what comes over the wire becomes the domain's own requests, field by field. Never drops a field in silence: every message is taken apart by name.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::pb;
use crate::{
    clock::Timestamp,
    connectors::{
        connector::{CommitMode, Finish, Guarantee, SinkKind},
        credential::CredentialType,
    },
    delivery::{RecordErrorPolicy, Source, Window},
    domain,
    problem::{Problem, Reason},
    record::{Change, Column, ColumnType, Encoding, JsonObject, JsonValue, Offset, Payload, RecordSchema, TypedValue},
    secret::Secret,
};

/// Faults of one message, gathered so that all are told at once.
#[derive(Debug, Default)]
struct Faults(Vec<Problem>);

impl Faults {
    fn bad(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::field(field, Reason::InvalidField, message));
    }

    /// A value of an enumeration: unspecified is `None`, unknown a fault.
    fn choice<P: TryFrom<i32>, D>(&mut self, field: &str, wire: i32, known: fn(P) -> Option<D>) -> Option<D> {
        match P::try_from(wire) {
            Ok(value) => known(value),
            Err(_) => {
                self.bad(field, format!("{field} has the unknown value {wire}; this server may be older than the client"));
                None
            }
        }
    }

    /// A number that must not be negative.
    fn natural(&mut self, field: &str, wire: i64) -> u64 {
        u64::try_from(wire).unwrap_or_else(|_| {
            self.bad(field, format!("{field} must not be negative, and is {wire}"));
            0
        })
    }

    /// A duration that must not be negative.
    fn duration(&mut self, field: &str, wire: Option<prost_types::Duration>) -> Option<Duration> {
        let wire = wire?;
        let duration = Duration::try_from(wire).ok();
        if duration.is_none() {
            self.bad(field, format!("{field} must be a duration that is not negative"));
        }
        duration
    }

    fn done<T>(self, value: T) -> Result<T, Problem> {
        match Problem::all(self.0) {
            Some(problem) => Err(problem),
            None => Ok(value),
        }
    }
}

fn options(wire: std::collections::HashMap<String, String>) -> BTreeMap<String, String> {
    wire.into_iter().collect()
}

fn page(page_size: i32, page_token: String) -> domain::Page {
    domain::Page { size: page_size, token: page_token }
}

// Enumerations: the domain has no "unspecified".

fn sink_kind(wire: pb::SinkKind) -> Option<SinkKind> {
    SinkKind::of_number(wire.into())
}

fn credential_type(wire: pb::CredentialType) -> Option<CredentialType> {
    Some(match wire {
        pb::CredentialType::Unspecified => return None,
        pb::CredentialType::AwsAccessKey => CredentialType::AwsAccessKey,
        pb::CredentialType::AwsIamRole => CredentialType::AwsIamRole,
        pb::CredentialType::AzureAd => CredentialType::AzureAd,
        pb::CredentialType::AzureOauth => CredentialType::AzureOauth,
        pb::CredentialType::AzureSas => CredentialType::AzureSas,
        pb::CredentialType::AzureStorageKey => CredentialType::AzureStorageKey,
        pb::CredentialType::GcsServiceAccountId => CredentialType::GcsServiceAccountId,
        pb::CredentialType::GcsServiceAccountKeys => CredentialType::GcsServiceAccountKeys,
        pb::CredentialType::Hdfs => CredentialType::Hdfs,
        pb::CredentialType::Jdbc => CredentialType::Jdbc,
        pb::CredentialType::Kafka => CredentialType::Kafka,
        pb::CredentialType::Confluent => CredentialType::Confluent,
        pb::CredentialType::Rest => CredentialType::Rest,
    })
}

fn object_type(wire: pb::ObjectType) -> Option<domain::ObjectType> {
    Some(match wire {
        pb::ObjectType::Unspecified => return None,
        pb::ObjectType::DataSink => domain::ObjectType::DataSink,
        pb::ObjectType::Credential => domain::ObjectType::Credential,
        pb::ObjectType::Schema => domain::ObjectType::Schema,
        pb::ObjectType::Table => domain::ObjectType::Table,
        pb::ObjectType::TableMonitor => domain::ObjectType::TableMonitor,
        pb::ObjectType::Directory => domain::ObjectType::Directory,
        pb::ObjectType::System => domain::ObjectType::System,
    })
}

fn permission(wire: pb::PermissionKind) -> Option<domain::Permission> {
    Some(match wire {
        pb::PermissionKind::Unspecified => return None,
        pb::PermissionKind::Admin => domain::Permission::Admin,
        pb::PermissionKind::Connect => domain::Permission::Connect,
        pb::PermissionKind::Create => domain::Permission::Create,
        pb::PermissionKind::Read => domain::Permission::Read,
        pb::PermissionKind::Insert => domain::Permission::Insert,
        pb::PermissionKind::Update => domain::Permission::Update,
        pb::PermissionKind::Delete => domain::Permission::Delete,
        pb::PermissionKind::Write => domain::Permission::Write,
        pb::PermissionKind::Monitor => domain::Permission::Monitor,
        pb::PermissionKind::UserAdmin => domain::Permission::UserAdmin,
    })
}

fn principal_kind(wire: pb::PrincipalKind) -> Option<domain::PrincipalKind> {
    match wire {
        pb::PrincipalKind::Unspecified => None,
        pb::PrincipalKind::User => Some(domain::PrincipalKind::User),
        pb::PrincipalKind::Role => Some(domain::PrincipalKind::Role),
    }
}

fn guarantee(wire: pb::DeliveryGuarantee) -> Option<Guarantee> {
    match wire {
        pb::DeliveryGuarantee::Unspecified => None,
        pb::DeliveryGuarantee::AtLeastOnce => Some(Guarantee::AtLeastOnce),
        pb::DeliveryGuarantee::Idempotent => Some(Guarantee::Idempotent),
        pb::DeliveryGuarantee::ExactlyOnce => Some(Guarantee::ExactlyOnce),
    }
}

fn policy(wire: pb::RecordErrorPolicy) -> Option<RecordErrorPolicy> {
    match wire {
        pb::RecordErrorPolicy::Unspecified => None,
        pb::RecordErrorPolicy::Stop => Some(RecordErrorPolicy::Stop),
        pb::RecordErrorPolicy::Skip => Some(RecordErrorPolicy::Skip),
        pb::RecordErrorPolicy::DeadLetter => Some(RecordErrorPolicy::DeadLetter),
    }
}

fn commit_mode(wire: pb::CommitMode) -> Option<CommitMode> {
    match wire {
        pb::CommitMode::Unspecified => None,
        pb::CommitMode::Continuous => Some(CommitMode::Continuous),
        pb::CommitMode::OnFinish => Some(CommitMode::OnFinish),
    }
}

fn encoding(wire: pb::RecordEncoding) -> Option<Encoding> {
    match wire {
        pb::RecordEncoding::Unspecified => None,
        pb::RecordEncoding::Ndjson => Some(Encoding::Ndjson),
        pb::RecordEncoding::Json => Some(Encoding::Json),
        pb::RecordEncoding::Typed => Some(Encoding::Typed),
        pb::RecordEncoding::ArrowIpc => Some(Encoding::ArrowIpc),
    }
}

fn change(wire: pb::ChangeKind) -> Option<Change> {
    Some(match wire {
        pb::ChangeKind::Unspecified | pb::ChangeKind::Insert => Change::Insert,
        pb::ChangeKind::Update => Change::Update,
        pb::ChangeKind::Delete => Change::Delete,
    })
}

fn on_conflict(wire: pb::OnConflict) -> Option<domain::OnConflict> {
    Some(match wire {
        pb::OnConflict::Unspecified | pb::OnConflict::Error => domain::OnConflict::Error,
        pb::OnConflict::Ignore => domain::OnConflict::Ignore,
        pb::OnConflict::Update => domain::OnConflict::Update,
    })
}

// Schemas.

pub(super) fn create_schema(wire: pb::CreateSchemaRequest) -> domain::CreateSchema {
    let pb::CreateSchemaRequest { name, if_not_exists, request_id } = wire;
    domain::CreateSchema { name, if_not_exists, request_id }
}

pub(super) fn drop_schema(wire: pb::DropSchemaRequest) -> domain::DropSchema {
    let pb::DropSchemaRequest { name, if_exists, cascade, request_id } = wire;
    domain::DropSchema { name, if_exists, cascade, request_id }
}

pub(super) fn show_schema(wire: pb::ShowSchemaRequest) -> domain::ShowSchema {
    let pb::ShowSchemaRequest { name, page_size, page_token } = wire;
    domain::ShowSchema { name, page: page(page_size, page_token) }
}

// Credentials.

fn secret_ref(faults: &mut Faults, wire: pb::SecretRef) -> Option<domain::SecretSource> {
    let pb::SecretRef { source } = wire;
    match source {
        Some(pb::secret_ref::Source::EnvironmentVariable(name)) => Some(domain::SecretSource::EnvironmentVariable(name)),
        Some(pb::secret_ref::Source::File(path)) => Some(domain::SecretSource::File(path)),
        None => {
            faults.bad("secret_ref.source", "secret_ref names neither environment_variable nor file; set one of them");
            None
        }
    }
}

pub(super) fn create_credential(wire: pb::CreateCredentialRequest) -> Result<domain::CreateCredential, Problem> {
    use pb::create_credential_request::SecretSource as Wire;
    let pb::CreateCredentialRequest { name, r#type, identity, options: wire_options, or_replace, if_not_exists, validate_only, request_id, secret_source } =
        wire;
    let mut faults = Faults::default();
    let credential_type = faults.choice("type", r#type, credential_type);
    let secret = match secret_source {
        Some(Wire::Secret(secret)) => Some(domain::SecretSource::Inline(secret.into())),
        Some(Wire::SecretRef(reference)) => secret_ref(&mut faults, reference),
        None => None,
    };
    faults.done(domain::CreateCredential {
        name,
        credential_type,
        identity,
        secret,
        options: options(wire_options),
        or_replace,
        if_not_exists,
        validate_only,
        request_id,
    })
}

pub(super) fn alter_credential(wire: pb::AlterCredentialRequest) -> Result<domain::AlterCredential, Problem> {
    use pb::alter_credential_request::SecretSource as Wire;
    let pb::AlterCredentialRequest { name, r#type, identity, updates, unset, schema_name, etag, validate_only, request_id, secret_source } = wire;
    let mut faults = Faults::default();
    let credential_type = r#type.and_then(|wire| faults.choice("type", wire, credential_type));
    let secret = match secret_source {
        Some(Wire::Secret(secret)) => Some(domain::SecretSource::Inline(secret.into())),
        Some(Wire::SecretRef(reference)) => secret_ref(&mut faults, reference),
        None => None,
    };
    faults.done(domain::AlterCredential {
        name,
        credential_type,
        identity,
        secret,
        updates: options(updates),
        unset,
        schema_name,
        etag,
        validate_only,
        request_id,
    })
}

pub(super) fn drop_credential(wire: pb::DropCredentialRequest) -> domain::DropCredential {
    let pb::DropCredentialRequest { name, if_exists, etag, validate_only, request_id } = wire;
    domain::DropCredential { name, if_exists, etag, validate_only, request_id }
}

pub(super) fn show_credential(wire: pb::ShowCredentialRequest) -> Result<domain::ShowCredential, Problem> {
    let pb::ShowCredentialRequest { name, page_size, page_token, r#type, include_used_by } = wire;
    let mut faults = Faults::default();
    let credential_type = faults.choice("type", r#type, credential_type);
    faults.done(domain::ShowCredential { name, page: page(page_size, page_token), credential_type, include_used_by })
}

// Data sinks.

pub(super) fn create_data_sink(wire: pb::CreateDataSinkRequest) -> domain::CreateDataSink {
    let pb::CreateDataSinkRequest { name, destination, options: wire_options, or_replace, if_not_exists, validate_only, request_id } = wire;
    domain::CreateDataSink { name, destination, options: options(wire_options), or_replace, if_not_exists, validate_only, request_id }
}

pub(super) fn alter_data_sink(wire: pb::AlterDataSinkRequest) -> domain::AlterDataSink {
    let pb::AlterDataSinkRequest { name, updates, unset, etag, validate_only, request_id } = wire;
    domain::AlterDataSink { name, updates: options(updates), unset, etag, validate_only, request_id }
}

pub(super) fn drop_data_sink(wire: pb::DropDataSinkRequest) -> domain::DropDataSink {
    let pb::DropDataSinkRequest { name, clear_table_monitors, if_exists, etag, validate_only, request_id } = wire;
    domain::DropDataSink { name, clear_table_monitors, if_exists, etag, validate_only, request_id }
}

pub(super) fn show_data_sink(wire: pb::ShowDataSinkRequest) -> Result<domain::ShowDataSink, Problem> {
    let pb::ShowDataSinkRequest { name, page_size, page_token, kind, include_dependents } = wire;
    let mut faults = Faults::default();
    let kind = faults.choice("kind", kind, sink_kind);
    faults.done(domain::ShowDataSink { name, page: page(page_size, page_token), kind, include_dependents })
}

pub(super) fn test_data_sink(wire: pb::TestDataSinkRequest) -> domain::TestDataSink {
    let pb::TestDataSinkRequest { name, destination, options: wire_options, write_probe } = wire;
    domain::TestDataSink { name, destination, options: options(wire_options), write_probe }
}

pub(super) fn show_sink_kinds(wire: pb::ShowSinkKindsRequest) -> Result<domain::ShowSinkKinds, Problem> {
    let pb::ShowSinkKindsRequest { kind } = wire;
    let mut faults = Faults::default();
    let kind = faults.choice("kind", kind, sink_kind);
    faults.done(domain::ShowSinkKinds { kind })
}

// Permissions and principals.

pub(super) fn grant_permission(wire: pb::GrantPermissionRequest) -> Result<domain::GrantPermission, Problem> {
    let pb::GrantPermissionRequest { principal, object_type: wire_type, object, permission: wire_permission, with_grant_option, request_id } = wire;
    let mut faults = Faults::default();
    let object_type = faults.choice("object_type", wire_type, object_type);
    let permission = faults.choice("permission", wire_permission, permission);
    faults.done(domain::GrantPermission { principal, object_type, object, permission, with_grant_option, request_id })
}

pub(super) fn revoke_permission(wire: pb::RevokePermissionRequest) -> Result<domain::RevokePermission, Problem> {
    let pb::RevokePermissionRequest { principal, object_type: wire_type, object, permission: wire_permission, if_exists, request_id } = wire;
    let mut faults = Faults::default();
    let object_type = faults.choice("object_type", wire_type, object_type);
    let permission = faults.choice("permission", wire_permission, permission);
    faults.done(domain::RevokePermission { principal, object_type, object, permission, if_exists, request_id })
}

pub(super) fn show_permission(wire: pb::ShowPermissionRequest) -> Result<domain::ShowPermission, Problem> {
    let pb::ShowPermissionRequest { principal, object_type: wire_type, object, permission: wire_permission, include_inherited, page_size, page_token } = wire;
    let mut faults = Faults::default();
    let object_type = faults.choice("object_type", wire_type, object_type);
    let permission = faults.choice("permission", wire_permission, permission);
    faults.done(domain::ShowPermission { principal, object_type, object, permission, include_inherited, page: page(page_size, page_token) })
}

pub(super) fn check_permission(wire: pb::CheckPermissionRequest) -> Result<domain::CheckPermission, Problem> {
    let pb::CheckPermissionRequest { principal, object_type: wire_type, object, permission: wire_permission } = wire;
    let mut faults = Faults::default();
    let object_type = faults.choice("object_type", wire_type, object_type);
    let permission = faults.choice("permission", wire_permission, permission);
    faults.done(domain::CheckPermission { principal, object_type, object, permission })
}

pub(super) fn create_principal(wire: pb::CreatePrincipalRequest) -> Result<domain::CreatePrincipal, Problem> {
    let pb::CreatePrincipalRequest { name, kind, identities, default_schema, if_not_exists, request_id, password } = wire;
    let mut faults = Faults::default();
    let kind = faults.choice("kind", kind, principal_kind);
    let password = (!password.is_empty()).then(|| Secret::from(password));
    faults.done(domain::CreatePrincipal { name, kind, identities, default_schema, if_not_exists, request_id, password })
}

pub(super) fn alter_principal(wire: pb::AlterPrincipalRequest) -> domain::AlterPrincipal {
    let pb::AlterPrincipalRequest { name, add_identities, remove_identities, default_schema, etag, request_id, password, disabled } = wire;
    domain::AlterPrincipal { name, add_identities, remove_identities, default_schema, etag, request_id, password: password.map(Secret::from), disabled }
}

pub(super) fn drop_principal(wire: pb::DropPrincipalRequest) -> domain::DropPrincipal {
    let pb::DropPrincipalRequest { name, if_exists, etag, request_id } = wire;
    domain::DropPrincipal { name, if_exists, etag, request_id }
}

pub(super) fn show_principal(wire: pb::ShowPrincipalRequest) -> Result<domain::ShowPrincipal, Problem> {
    let pb::ShowPrincipalRequest { name, kind, page_size, page_token } = wire;
    let mut faults = Faults::default();
    let kind = faults.choice("kind", kind, principal_kind);
    faults.done(domain::ShowPrincipal { name, kind, page: page(page_size, page_token) })
}

pub(super) fn grant_role(wire: pb::GrantRoleRequest) -> domain::GrantRole {
    let pb::GrantRoleRequest { role, member, request_id } = wire;
    domain::GrantRole { role, member, request_id }
}

pub(super) fn revoke_role(wire: pb::RevokeRoleRequest) -> domain::RevokeRole {
    let pb::RevokeRoleRequest { role, member, if_exists, request_id } = wire;
    domain::RevokeRole { role, member, if_exists, request_id }
}

pub(super) fn create_access_token(wire: pb::CreateAccessTokenRequest) -> Result<domain::CreateAccessToken, Problem> {
    let pb::CreateAccessTokenRequest { principal, description, ttl, request_id } = wire;
    let mut faults = Faults::default();
    let ttl = faults.duration("ttl", ttl);
    faults.done(domain::CreateAccessToken { principal, description, ttl, request_id })
}

pub(super) fn revoke_access_token(wire: pb::RevokeAccessTokenRequest) -> domain::RevokeAccessToken {
    let pb::RevokeAccessTokenRequest { id, if_exists, request_id } = wire;
    domain::RevokeAccessToken { id, if_exists, request_id }
}

pub(super) fn show_access_token(wire: pb::ShowAccessTokenRequest) -> domain::ShowAccessToken {
    let pb::ShowAccessTokenRequest { principal, page_size, page_token } = wire;
    domain::ShowAccessToken { principal, page: page(page_size, page_token) }
}

// Records.

fn record_schema(faults: &mut Faults, field: &str, wire: pb::RecordSchema) -> RecordSchema {
    let pb::RecordSchema { columns } = wire;
    let columns = columns.into_iter().enumerate().filter_map(|(index, wire)| column(faults, &format!("{field}.columns[{index}]"), wire)).collect();
    RecordSchema { columns }
}

fn column(faults: &mut Faults, field: &str, wire: pb::Column) -> Option<Column> {
    let pb::Column { name, r#type, nullable, precision, scale, max_length, primary_key, default_expression } = wire;
    if !default_expression.is_empty() {
        faults.bad(format!("{field}.default_expression"), format!("{field}.default_expression: defaults are not supported yet; leave it empty"));
    }
    let max_length = u32::try_from(max_length).unwrap_or_else(|_| {
        faults.bad(format!("{field}.max_length"), format!("{field}.max_length must not be negative, and is {max_length}"));
        0
    });
    let wire_type = faults.choice(&format!("{field}.type"), r#type, Some::<pb::ColumnType>)?;
    let Some(column_type) = column_type(wire_type, precision, scale) else {
        faults.bad(format!("{field}.type"), format!("{field}.type is missing; every column has a type"));
        return None;
    };
    Some(Column { name, column_type, nullable, max_length, primary_key })
}

fn column_type(wire: pb::ColumnType, precision: i32, scale: i32) -> Option<ColumnType> {
    Some(match wire {
        pb::ColumnType::Unspecified => return None,
        pb::ColumnType::Bool => ColumnType::Bool,
        pb::ColumnType::Int8 => ColumnType::Int8,
        pb::ColumnType::Int16 => ColumnType::Int16,
        pb::ColumnType::Int32 => ColumnType::Int32,
        pb::ColumnType::Int64 => ColumnType::Int64,
        pb::ColumnType::Uint64 => ColumnType::Uint64,
        pb::ColumnType::Float => ColumnType::Float,
        pb::ColumnType::Double => ColumnType::Double,
        pb::ColumnType::Decimal => {
            // What is out of bounds stays so: the schema's own check names it beside all other faults.
            let bounded = |digits: i32| u8::try_from(digits).unwrap_or(u8::MAX);
            ColumnType::Decimal { precision: bounded(precision), scale: bounded(scale) }
        }
        pb::ColumnType::String => ColumnType::String,
        pb::ColumnType::Bytes => ColumnType::Bytes,
        pb::ColumnType::Date => ColumnType::Date,
        pb::ColumnType::Time => ColumnType::Time,
        pb::ColumnType::Timestamp => ColumnType::Timestamp,
        pb::ColumnType::Uuid => ColumnType::Uuid,
        pb::ColumnType::Json => ColumnType::Json,
    })
}

/// A batch as it came, before anything looks into its records.
#[derive(Debug)]
pub(super) struct WireBatch {
    /// What the sender says the first record's offset is.
    pub first_offset: Option<Offset>,
    /// How many records it says there are; 0: not said.
    pub record_count: u32,
    /// The records.
    pub payload: Payload,
    /// What they say happened.
    pub change: Change,
    /// When.
    pub event_time: Option<Timestamp>,
    /// Trace context of what produced them.
    pub traceparent: Option<std::sync::Arc<str>>,
}

/// The longest W3C `traceparent` that is kept, in bytes: version 00 has 55.
const TRACEPARENT_BYTES_MAX: usize = 64;

pub(super) fn record_batch(field: &str, wire: pb::RecordBatch) -> Result<WireBatch, Problem> {
    use pb::record_batch::Payload as Wire;
    let pb::RecordBatch { first_offset, record_count, change: wire_change, event_time, traceparent, payload } = wire;
    let mut faults = Faults::default();
    let first_offset = first_offset.map(|offset| faults.natural(&format!("{field}.first_offset"), offset));
    let record_count = u32::try_from(record_count).unwrap_or_else(|_| {
        faults.bad(format!("{field}.record_count"), format!("{field}.record_count must not be negative, and is {record_count}"));
        0
    });
    let change = faults.choice(&format!("{field}.change"), wire_change, change).unwrap_or_default();
    let event_time = event_time.and_then(|wire| timestamp(&mut faults, &format!("{field}.event_time"), wire));
    if traceparent.len() > TRACEPARENT_BYTES_MAX || !traceparent.is_ascii() {
        faults.bad(format!("{field}.traceparent"), format!("{field}.traceparent must be a W3C traceparent: 00-TRACE-SPAN-FLAGS"));
    }
    let payload = match payload {
        Some(Wire::Ndjson(bytes)) => Payload::Ndjson(bytes),
        Some(Wire::Json(pb::JsonRecords { records })) => Payload::Json(records.into_iter().map(json_object).collect()),
        Some(Wire::Typed(records)) => Payload::Typed(typed(records)),
        Some(Wire::ArrowIpc(bytes)) => Payload::ArrowIpc(bytes),
        None => {
            faults.bad(format!("{field}.payload"), format!("{field} has no payload; set one of ndjson, json, typed, arrow_ipc"));
            Payload::Ndjson(bytes::Bytes::new())
        }
    };
    let traceparent = (!traceparent.is_empty()).then(|| traceparent.into());
    faults.done(WireBatch { first_offset, record_count, payload, change, event_time, traceparent })
}

fn timestamp(faults: &mut Faults, field: &str, wire: prost_types::Timestamp) -> Option<Timestamp> {
    let micros = wire.seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(i64::from(wire.nanos) / 1_000));
    if micros.is_none() {
        faults.bad(field, format!("{field} is outside of the years that can be told"));
    }
    micros.map(Timestamp::from_micros)
}

fn typed(wire: pb::TypedRecords) -> Vec<Vec<TypedValue>> {
    let pb::TypedRecords { records } = wire;
    records.into_iter().map(|pb::TypedRecord { values }| values.into_iter().map(typed_value).collect()).collect()
}

fn typed_value(wire: pb::Value) -> TypedValue {
    use pb::value::Kind;
    let pb::Value { kind } = wire;
    match kind {
        None | Some(Kind::NullValue(_)) => TypedValue::Null,
        Some(Kind::BoolValue(value)) => TypedValue::Bool(value),
        Some(Kind::IntValue(value)) => TypedValue::Int(value),
        Some(Kind::UintValue(value)) => TypedValue::Uint(value),
        Some(Kind::DoubleValue(value)) => TypedValue::Double(value),
        Some(Kind::StringValue(value)) => TypedValue::String(value),
        Some(Kind::BytesValue(value)) => TypedValue::Bytes(value.into()),
        Some(Kind::TimestampValue(value)) => {
            TypedValue::Timestamp(Timestamp::from_micros(value.seconds.saturating_mul(1_000_000).saturating_add(i64::from(value.nanos) / 1_000)))
        }
    }
}

/// A protobuf struct as records know it; prost keeps fields in a map, so they come in name order.
fn json_object(wire: prost_types::Struct) -> JsonObject {
    JsonObject(wire.fields.into_iter().map(|(name, value)| (name, json_value(value))).collect())
}

fn json_value(wire: prost_types::Value) -> JsonValue {
    use prost_types::value::Kind;
    match wire.kind {
        None | Some(Kind::NullValue(_)) => JsonValue::Null,
        Some(Kind::BoolValue(value)) => JsonValue::Bool(value),
        Some(Kind::NumberValue(value)) => JsonValue::Number(value),
        Some(Kind::StringValue(value)) => JsonValue::String(value),
        Some(Kind::ListValue(list)) => JsonValue::Array(list.values.into_iter().map(json_value).collect()),
        Some(Kind::StructValue(inner)) => JsonValue::Object(json_object(inner)),
    }
}

/// A protobuf struct as a JSON object: whole numbers that a double holds exactly become integers again.
fn object(wire: prost_types::Struct) -> Map<String, Value> {
    wire.fields.into_iter().map(|(key, value)| (key, json(value))).collect()
}

fn json(wire: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(json).collect()),
        Some(Kind::StructValue(inner)) => Value::Object(object(inner)),
    }
}

fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Value::from(value as i64);
    }
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

// Push.

fn window(faults: &mut Faults, wire: Option<pb::FlowWindow>) -> Window {
    let pb::FlowWindow { max_outstanding_records, max_outstanding_bytes } = wire.unwrap_or_default();
    Window {
        records: faults.natural("window.max_outstanding_records", max_outstanding_records),
        bytes: faults.natural("window.max_outstanding_bytes", max_outstanding_bytes),
    }
}

/// The open frame; `heartbeat_interval` is the transport's own and is clamped by it.
pub(super) fn open_stream(wire: pb::OpenStream) -> Result<domain::OpenStream, Problem> {
    use pb::open_stream::Source as Wire;
    let pb::OpenStream {
        data_sink,
        stream,
        encoding: wire_encoding,
        schema,
        key_columns,
        required_delivery,
        record_error_policy,
        commit_mode: wire_mode,
        window: wire_window,
        heartbeat_interval,
        linger,
        options: wire_options,
        client_id,
        takeover,
        dead_letter_sink,
        source,
    } = wire;
    let mut faults = Faults::default();
    let source = source.map(|source| match source {
        Wire::TableMonitor(name) => Source::TableMonitor(name),
        Wire::ExportJob(name) => Source::ExportJob(name),
        Wire::Adhoc(label) => Source::Adhoc(label),
    });
    let open = domain::OpenStream {
        data_sink,
        source,
        stream,
        encoding: faults.choice("encoding", wire_encoding, encoding),
        schema: schema.map(|schema| record_schema(&mut faults, "schema", schema)),
        key_columns,
        required_delivery: faults.choice("required_delivery", required_delivery, guarantee),
        record_error_policy: faults.choice("record_error_policy", record_error_policy, policy),
        commit_mode: faults.choice("commit_mode", wire_mode, commit_mode),
        window: window(&mut faults, wire_window),
        heartbeat_interval: faults.duration("heartbeat_interval", heartbeat_interval),
        linger: faults.duration("linger", linger),
        options: options(wire_options),
        client_id,
        takeover,
        dead_letter_sink,
    };
    faults.done(open)
}

/// How a stream ends, and the offset it must have reached.
pub(super) fn finish_stream(wire: pb::FinishStream) -> Result<(Finish, Option<Offset>), Problem> {
    let pb::FinishStream { action, expected_next_offset } = wire;
    let mut faults = Faults::default();
    let action = faults.choice("finish.action", action, |wire: pb::FinishAction| match wire {
        pb::FinishAction::Unspecified | pb::FinishAction::Commit => Some(Finish::Commit),
        pb::FinishAction::Abort => Some(Finish::Abort),
    });
    let expected = expected_next_offset.map(|offset| faults.natural("finish.expected_next_offset", offset));
    faults.done((action.unwrap_or(Finish::Commit), expected))
}

pub(super) fn push_once(wire: pb::PushOnceRequest) -> Result<(domain::PushOnce, WireBatch), Problem> {
    use pb::push_once_request::Source as Wire;
    let pb::PushOnceRequest {
        data_sink,
        stream,
        batch,
        schema,
        key_columns,
        required_delivery,
        record_error_policy,
        options: wire_options,
        validate_only,
        request_id,
        dead_letter_sink,
        source,
    } = wire;
    let mut faults = Faults::default();
    let source = source.map(|source| match source {
        Wire::TableMonitor(name) => Source::TableMonitor(name),
        Wire::ExportJob(name) => Source::ExportJob(name),
        Wire::Adhoc(label) => Source::Adhoc(label),
    });
    let batch = match batch {
        Some(batch) => record_batch("batch", batch).map_err(|problem| faults.0.push(problem)).ok(),
        None => {
            faults.bad("batch", "batch is missing; PushOnce writes one batch");
            None
        }
    };
    let once = domain::PushOnce {
        data_sink,
        source,
        stream,
        first_offset: batch.as_ref().and_then(|batch| batch.first_offset),
        schema: schema.map(|schema| record_schema(&mut faults, "schema", schema)),
        key_columns,
        required_delivery: faults.choice("required_delivery", required_delivery, guarantee),
        record_error_policy: faults.choice("record_error_policy", record_error_policy, policy),
        options: options(wire_options),
        validate_only,
        request_id,
        dead_letter_sink,
    };
    let (once, batch) = faults.done((once, batch))?;
    Ok((once, batch.expect("a batch that is missing or bad is a fault")))
}

pub(super) fn show_push_stream(wire: pb::ShowPushStreamRequest) -> domain::ShowPushStream {
    let pb::ShowPushStreamRequest { data_sink, stream, only_live, page_size, page_token } = wire;
    domain::ShowPushStream { data_sink, stream, only_live, page: page(page_size, page_token) }
}

pub(super) fn drop_push_stream(wire: pb::DropPushStreamRequest) -> domain::DropPushStream {
    let pb::DropPushStreamRequest { data_sink, stream, if_exists } = wire;
    domain::DropPushStream { data_sink, stream, if_exists }
}

// Tables.

pub(super) fn create_table(wire: pb::CreateTableRequest) -> Result<domain::CreateTable, Problem> {
    let pb::CreateTableRequest { name, schema, if_not_exists, request_id } = wire;
    let mut faults = Faults::default();
    let schema = record_schema(&mut faults, "schema", schema.unwrap_or_default());
    faults.done(domain::CreateTable { name, schema, if_not_exists, request_id })
}

pub(super) fn drop_table(wire: pb::DropTableRequest) -> domain::DropTable {
    let pb::DropTableRequest { name, if_exists, clear_table_monitors, etag, request_id } = wire;
    domain::DropTable { name, if_exists, clear_table_monitors, etag, request_id }
}

pub(super) fn show_table(wire: pb::ShowTableRequest) -> domain::ShowTable {
    let pb::ShowTableRequest { name, page_size, page_token } = wire;
    domain::ShowTable { name, page: page(page_size, page_token) }
}

pub(super) fn insert_rows(wire: pb::InsertRowsRequest) -> Result<domain::InsertRows, Problem> {
    let pb::InsertRowsRequest { table, batch, on_conflict: wire_conflict, request_id } = wire;
    let mut faults = Faults::default();
    let on_conflict = faults.choice("on_conflict", wire_conflict, on_conflict).unwrap_or_default();
    let Some(batch) = batch else {
        faults.bad("batch", "batch is missing; it holds the rows");
        return Err(Problem::all(faults.0).expect("there is a fault"));
    };
    // Offset, change, time and trace of a batch mean nothing for a plain insert.
    let WireBatch { record_count, payload, first_offset: _, change: _, event_time: _, traceparent: _ } = record_batch("batch", batch)?;
    let record_count = i32::try_from(record_count).expect("it came as an i32");
    faults.done(domain::InsertRows { table, payload, record_count, on_conflict, request_id })
}

pub(super) fn update_rows(wire: pb::UpdateRowsRequest) -> domain::UpdateRows {
    let pb::UpdateRowsRequest { table, filter, set, request_id } = wire;
    domain::UpdateRows { table, filter, set: set.map(object).unwrap_or_default(), request_id }
}

pub(super) fn delete_rows(wire: pb::DeleteRowsRequest) -> domain::DeleteRows {
    let pb::DeleteRowsRequest { table, filter, request_id } = wire;
    domain::DeleteRows { table, filter, request_id }
}

/// A scan and the encoding its rows are asked for in.
pub(super) fn scan_rows(wire: pb::ScanRowsRequest) -> Result<(domain::ScanRows, Encoding), Problem> {
    let pb::ScanRowsRequest { table, columns, filter, limit, encoding: wire_encoding, resume_token } = wire;
    let mut faults = Faults::default();
    let encoding = faults.choice("encoding", wire_encoding, encoding).unwrap_or(Encoding::Json);
    faults.natural("limit", limit);
    faults.done((domain::ScanRows { table, columns, filter, limit, resume_token }, encoding))
}

// The server.

pub(super) fn drain_server(wire: pb::DrainServerRequest) -> Result<domain::DrainServer, Problem> {
    let pb::DrainServerRequest { grace } = wire;
    let mut faults = Faults::default();
    let grace = faults.duration("grace", grace);
    faults.done(domain::DrainServer { grace })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_of_a_message_are_told_at_once_by_path() {
        let column = |r#type: pb::ColumnType, precision| pb::Column { r#type: r#type as i32, precision, max_length: -1, ..Default::default() };
        let schema = pb::RecordSchema { columns: vec![column(pb::ColumnType::Unspecified, 0), column(pb::ColumnType::Decimal, 39)] };
        let open = pb::OpenStream {
            encoding: 99,
            schema: Some(schema),
            window: Some(pb::FlowWindow { max_outstanding_records: -1, max_outstanding_bytes: 0 }),
            linger: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            ..Default::default()
        };
        let problem = open_stream(open).unwrap_err();
        let fields: Vec<&str> = problem.violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            ["encoding", "schema.columns[0].max_length", "schema.columns[0].type", "schema.columns[1].max_length", "window.max_outstanding_records", "linger"]
        );
    }

    #[test]
    fn a_batch_needs_a_payload_and_offsets_from_zero_on() {
        let problem = record_batch("batch", pb::RecordBatch { first_offset: Some(-1), record_count: -1, ..Default::default() }).unwrap_err();
        assert_eq!(problem.violations.len(), 3);
        assert!(push_once(pb::PushOnceRequest::default()).unwrap_err().violations.iter().any(|violation| violation.field == "batch"));
    }

    #[test]
    fn whole_doubles_become_integers_again() {
        assert_eq!(number(3.0), Value::from(3));
        assert_eq!(number(-0.5), Value::from(-0.5));
        assert_eq!(number(1e300).to_string(), "1e+300");
        assert_eq!(number(f64::NAN), Value::Null);
    }

    #[test]
    fn kinds_have_the_interfaces_numbers() {
        for kind in SinkKind::ALL {
            let wire = pb::SinkKind::try_from(kind as i32).expect("the interface has every kind");
            assert_eq!(wire.as_str_name(), format!("SINK_KIND_{}", kind.as_str().to_uppercase()));
            assert_eq!(sink_kind(wire), Some(kind));
        }
        assert_eq!(sink_kind(pb::SinkKind::Unspecified), None);
        assert!(pb::SinkKind::try_from(SinkKind::ALL.len() as i32 + 1).is_err(), "the interface has no kind more");
    }
}
