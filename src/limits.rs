//! Why: every bound of the product in one place, with its unit in its name and the relations between them asserted. Never a bound elsewhere.

use std::time::Duration;

/// The largest `Push` or `InsertRows` message, decompressed.
pub const PUSH_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// The largest message of any other RPC.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// The largest batch, encoded.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// The largest batch once decoded (Arrow declares its own lengths).
pub const BATCH_DECODED_BYTES_MAX: usize = 64 << 20;
/// The most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 100_000;
/// The largest record, as JSON text.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// How deep JSON may nest in a record.
pub const RECORD_DEPTH_MAX: usize = 64;
/// The most columns of a table or a record schema.
pub const COLUMNS_MAX: usize = 1_000;

/// Default and largest page of a Show call.
pub const PAGE_SIZE_DEFAULT: usize = 100;
/// See [`PAGE_SIZE_DEFAULT`].
pub const PAGE_SIZE_MAX: usize = 1_000;

/// The longest object or schema name, in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// The longest user or role name, in characters.
pub const PRINCIPAL_CHARS_MAX: usize = 64;
/// The longest identity (SPIFFE id, issuer|subject) of a principal, in bytes.
pub const IDENTITY_BYTES_MAX: usize = 512;
/// The longest stream name, in characters.
pub const STREAM_NAME_CHARS_MAX: usize = 200;
/// The longest destination, in bytes.
pub const DESTINATION_BYTES_MAX: usize = 2_048;
/// The most options of one object.
pub const OPTIONS_MAX: usize = 200;
/// The longest value of one option, in bytes (a service account's key file fits).
pub const OPTION_BYTES_MAX: usize = 16 << 10;
/// The longest secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 << 10;
/// The longest password, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// All status details of one error, serialized: beyond about 5.9 KB C-core clients lose the whole status.
pub const ERROR_DETAILS_BYTES_MAX: usize = 4 << 10;

/// The window a session announces.
pub const WINDOW_RECORDS: u64 = 10_000;
/// See [`WINDOW_RECORDS`].
pub const WINDOW_BYTES: u64 = 16 << 20;
/// What all sessions together may hold, in bytes.
pub const BUDGET_BYTES: u64 = 256 << 20;
/// The most sessions of one server.
pub const SESSIONS_MAX: usize = 1_000;
/// The most errors in one `record_errors` frame; the rest is counted in `more`.
pub const RECORD_ERRORS_PER_FRAME_MAX: usize = 100;
/// The most artifacts kept for one ack or `ended` frame; older ones of the same frame are dropped.
pub const ARTIFACTS_PER_FRAME_MAX: usize = 100;
/// The most receipts of a stream that our own store notes.
pub const NOTED_RECEIPTS_MAX: usize = 32;
/// The most bytes of a peer's response body that are ever read.
pub const REPLY_BYTES_MAX: usize = 64 << 10;

/// The largest object of a CONTINUOUS stream, in bytes of its records: a sender holds an object until it is there, and two must fit into half of [`BUDGET_BYTES`].
pub const OBJECT_BYTES_MAX: u64 = 64 << 20;
/// The size of an object's parts, and the largest object that is put whole where there is a choice; stores want at least 5 MiB.
pub const OBJECT_PART_BYTES: usize = 8 << 20;
/// Parts of one object that are under way at once.
pub const OBJECT_PARTS_IN_FLIGHT: usize = 4;
/// Data objects of one unit that are being encoded at once, where records say where they lie: each has an encoder's buffers.
pub const OBJECT_GROUPS_MAX: usize = 256;
/// The most objects of one unit, where records say where they lie; a batch that brings more is cut.
pub const OBJECTS_OF_A_UNIT_MAX: usize = 1_000;
/// The largest manifest that is read back, in bytes: of the most objects, each with the longest key.
pub const OBJECT_MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// How long the removal of an incomplete upload may take.
pub const OBJECT_CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an open stream to Kafka may be idle before its mark is written again: brokers forget a group after a week without a commit, and may be set to less.
pub const KAFKA_MARK_REFRESH_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// How long a client may take to send `open`.
pub const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an otherwise silent session sends a heartbeat.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// The shortest and longest heartbeat interval a client may ask for.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// See [`HEARTBEAT_INTERVAL_MIN`].
pub const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// The longest a client may let records linger for company.
pub const LINGER_MAX: Duration = Duration::from_secs(60);
/// Default of the option `connection_timeout`.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Default of the option `wait_timeout`: how long a destination may fail without any progress before a session gives up.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long sessions get to settle when the server drains.
pub const DRAIN_GRACE: Duration = Duration::from_secs(20);
/// From the signal to the exit, whatever clients do.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(30);
/// How long records of an unfinished ON_FINISH stream are kept where the service keeps them itself, from the last one on.
pub const UNFINISHED_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a named stream is known that nobody opens and that nothing is acknowledged on. Where the destination keeps its mark, it goes on from there all the same.
pub const IDLE_STREAM_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a `request_id` and its answer are kept.
pub const REQUEST_ID_KEPT: Duration = Duration::from_secs(24 * 3600);
/// The default life of an access token.
pub const ACCESS_TOKEN_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest life of an access token.
pub const ACCESS_TOKEN_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The largest value the store's engines see; larger ones are cut into chunks.
pub const STORE_VALUE_BYTES_MAX: usize = 4 << 10;
/// The longest key the store takes, in bytes.
pub const STORE_KEY_BYTES_MAX: usize = 1 << 10;
/// The largest value a caller may put, before chunking.
pub const STORE_ENTRY_BYTES_MAX: usize = 2 << 20;

const _: () = assert!(OBJECT_GROUPS_MAX < OBJECTS_OF_A_UNIT_MAX);
// An entry is a key of 1,024 bytes, a hash of 64 digits and a few numbers.
const _: () = assert!(OBJECTS_OF_A_UNIT_MAX as u64 * 2_048 < OBJECT_MANIFEST_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < PUSH_MESSAGE_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX as u64 <= WINDOW_BYTES);
const _: () = assert!(WINDOW_BYTES < BUDGET_BYTES);
const _: () = assert!(RECORD_BYTES_MAX < STORE_ENTRY_BYTES_MAX);
const _: () = assert!(PAGE_SIZE_DEFAULT <= PAGE_SIZE_MAX);
const _: () = assert!(DRAIN_GRACE.as_secs() < SHUTDOWN_MAX.as_secs());
