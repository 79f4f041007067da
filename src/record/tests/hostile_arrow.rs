//! Why: no Arrow stream may kill the process, balloon its memory, or be half read. What is not refused must be whole.

use arrow_array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray, NullArray, RecordBatch, StringArray, StringViewArray, StructArray,
    TimestampNanosecondArray,
    types::{Int32Type, Int64Type},
};
use arrow_ipc::{
    BodyCompression, BodyCompressionArgs, BodyCompressionMethod, Buffer, CompressionType, FieldNode, Message, MessageArgs, MessageHeader, MetadataVersion,
    RecordBatch as FlatBatch, RecordBatchArgs, writer::StreamWriter,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use flatbuffers::FlatBufferBuilder;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::limits::BATCH_DECODED_BYTES_MAX;

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn stream_of(batches: &[&RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

fn one_column() -> RecordBatch {
    batch_of(vec![("a", Arc::new(Int64Array::from(vec![1, 2, 3])))])
}

/// A stream like [`one_column`]'s with a record batch made by hand.
fn forged(compression: Option<CompressionType>, rows: i64, node: FieldNode, buffers: &[Buffer], body: &[u8]) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let nodes = builder.create_vector(&[node]);
    let buffers = builder.create_vector(buffers);
    let compression = compression.map(|codec| BodyCompression::create(&mut builder, &BodyCompressionArgs { codec, method: BodyCompressionMethod::BUFFER }));
    let args = RecordBatchArgs { length: rows, nodes: Some(nodes), buffers: Some(buffers), compression, variadicBufferCounts: None };
    let header = FlatBatch::create(&mut builder, &args).as_union_value();
    let args = MessageArgs {
        version: MetadataVersion::V5,
        header_type: MessageHeader::RecordBatch,
        header: Some(header),
        bodyLength: body.len() as i64,
        custom_metadata: None,
    };
    let message = Message::create(&mut builder, &args);
    builder.finish(message, None);
    let mut metadata = builder.finished_data().to_vec();
    metadata.resize(metadata.len().next_multiple_of(8), 0);

    let mut stream = stream_of(&[&one_column().slice(0, 0)]);
    let schema_len = u32::from_le_bytes(stream[4..8].try_into().unwrap()) as usize + 8;
    stream.truncate(schema_len);
    stream.extend(u32::MAX.to_le_bytes());
    stream.extend(u32::try_from(metadata.len()).unwrap().to_le_bytes());
    stream.extend(metadata);
    stream.extend(body);
    stream.extend(u32::MAX.to_le_bytes());
    stream.extend(0_u32.to_le_bytes());
    stream
}

fn decoded(stream: impl Into<Bytes>) -> Result<Vec<Piece>, DecodeError> {
    decode(incoming(Payload::ArrowIpc(stream.into())), None)
}

fn unreadable(stream: impl Into<Bytes>) -> String {
    match decoded(stream) {
        Err(DecodeError::Unreadable { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_forged_stream_is_read_if_it_does_not_lie() {
    let body: Vec<u8> = [7_i64, 8].into_iter().flat_map(i64::to_le_bytes).collect();
    let pieces = decoded(forged(None, 2, FieldNode::new(2, 0), &[Buffer::new(0, 0), Buffer::new(0, 16)], &body)).unwrap();
    assert_eq!(shown(&pieces), [r#"{"a":7} {"a":8}"#]);
}

#[test]
fn compressed_bodies_are_refused_whatever_they_claim() {
    for claimed in [7_i64, 1 << 40, i64::MAX, -2, -1, 0] {
        for (codec, magic) in [(CompressionType::LZ4_FRAME, [0x04, 0x22, 0x4d, 0x18]), (CompressionType::ZSTD, [0x28, 0xb5, 0x2f, 0xfd])] {
            let mut body = claimed.to_le_bytes().to_vec();
            body.extend(magic);
            body.resize(4_096, 0);
            let stream = forged(Some(codec), 3, FieldNode::new(3, 0), &[Buffer::new(0, 0), Buffer::new(0, 4_096)], &body);
            assert!(matches!(decoded(stream), Err(DecodeError::Compressed { .. })), "{claimed}");
        }
    }
}

#[test]
fn declared_lengths_must_lie_within_the_stream() {
    let with = |rows: i64, node: (i64, i64), buffer: (i64, i64)| {
        unreadable(forged(None, rows, FieldNode::new(node.0, node.1), &[Buffer::new(0, 0), Buffer::new(buffer.0, buffer.1)], &[0; 24]))
    };
    let past = "a buffer runs past its body";
    assert_eq!(with(3, (3, 0), (0, 25)), past);
    assert_eq!(with(3, (3, 0), (8, 24)), past);
    assert_eq!(with(3, (3, 0), (0, i64::MAX)), past);
    assert_eq!(with(3, (3, 0), (i64::MAX, i64::MAX)), past);
    assert_eq!(with(3, (3, 0), (-8, 8)), "a buffer has a negative offset or length");
    assert_eq!(with(3, (3, 0), (0, -1)), "a buffer has a negative offset or length");
    for node in [(1 << 40, 0), (i64::MAX, 0), (-1, 0), (3, 4), (3, -1)] {
        assert_eq!(with(3, node, (0, 24)), "a column declares an impossible length or number of nulls");
    }
    assert_eq!(with(-1, (3, 0), (0, 24)), "a record batch has a negative length");
    // Within the stream, but not what the column needs: the decoder's own checks.
    with(3, (3, 0), (0, 16));
    with(3, (2, 0), (0, 24));
    with(3, (3, 2), (0, 24));
    let many = forged(None, i64::MAX, FieldNode::new(3, 0), &[], &[]);
    assert!(matches!(decoded(many), Err(DecodeError::TooManyRecords { .. })));
}

#[test]
fn buffers_that_overlap_are_counted_each() {
    let body = vec![0; 1 << 20];
    let buffers = vec![Buffer::new(0, 1 << 20); 65];
    assert!(matches!(decoded(forged(None, 3, FieldNode::new(3, 0), &buffers, &body)), Err(DecodeError::TooLarge { limit_bytes: BATCH_DECODED_BYTES_MAX, .. })));
}

#[test]
fn no_prefix_of_a_stream_is_a_stream() {
    let stream = stream_of(&[&one_column(), &one_column()]);
    for len in 0..stream.len() {
        assert!(decoded(stream[..len].to_vec()).is_err(), "{len} of {}", stream.len());
    }
    assert_eq!(unreadable([&stream[..], b"x"].concat()), "1 bytes follow its end");
    assert!(decoded([&stream[..], &stream[..]].concat()).is_err());
    assert_eq!(shown(&decoded(stream).unwrap())[0].split(' ').count(), 6);
}

#[test]
fn streams_need_no_alignment() {
    let stream = stream_of(&[&one_column()]);
    for shift in 0..16 {
        let bytes = Bytes::from([vec![0; shift], stream.clone()].concat()).slice(shift..);
        assert_eq!(shown(&decoded(bytes).unwrap()), [r#"{"a":1} {"a":2} {"a":3}"#]);
    }
}

#[test]
fn little_that_stands_for_much_is_refused() {
    let long = StringArray::from(vec!["x".repeat(1_000_000)]);
    let keys = Int32Array::from(vec![0; 1_000]);
    let dictionary = batch_of(vec![("d", Arc::new(DictionaryArray::<Int32Type>::new(keys, Arc::new(long.clone()))))]);
    assert!(matches!(decoded(stream_of(&[&dictionary])), Err(DecodeError::TooLarge { .. })));

    let view = StringViewArray::from_iter_values([long.value(0)]);
    let views = view.views()[0];
    let views = StringViewArray::new(vec![views; 1_000].into(), view.data_buffers().to_vec(), None);
    assert!(matches!(decoded(stream_of(&[&batch_of(vec![("v", Arc::new(views))])])), Err(DecodeError::TooLarge { .. })));

    let name = "n".repeat(1_000);
    let nulls = batch_of(vec![(&name, Arc::new(NullArray::new(100_000)))]);
    assert!(matches!(decoded(stream_of(&[&nulls])), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn types_without_a_json_text_are_named() {
    let intervals = arrow_array::DurationSecondArray::from(vec![1]);
    let error = decoded(stream_of(&[&batch_of(vec![("span", Arc::new(intervals))])])).unwrap_err();
    assert!(matches!(&error, DecodeError::UnsupportedType { column, .. } if column == "span"), "{error}");
    let twice = Schema::new(vec![Field::new("a", DataType::Null, true), Field::new("a", DataType::Null, true)]);
    let twice = RecordBatch::try_new(Arc::new(twice), vec![Arc::new(NullArray::new(1)), Arc::new(NullArray::new(1))]).unwrap();
    assert_eq!(unreadable(stream_of(&[&twice])), "two columns are named \"a\"");
}

fn nested() -> RecordBatch {
    let inner: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]));
    let fields = Fields::from(vec![Field::new("l", inner.data_type().clone(), true)]);
    let structs = StructArray::new(fields, vec![inner], Some(vec![true, true, false].into()));
    let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), None, Some("y")].into_iter().collect();
    batch_of(vec![
        ("s", Arc::new(structs)),
        ("d", Arc::new(dictionary)),
        ("t", Arc::new(TimestampNanosecondArray::from(vec![Some(1), None, Some(-1_000)]))),
        ("v", Arc::new(StringViewArray::from(vec![Some("a view longer than twelve bytes"), None, Some("short")]))),
    ])
}

#[test]
fn nested_columns_have_their_text() {
    let expected = [
        r#"{"s":{"l":[1,null]},"d":"x","t":"1970-01-01T00:00:00.000000001Z","v":"a view longer than twelve bytes"}"#,
        r#"{"s":{"l":null},"d":null,"t":null,"v":null}"#,
        r#"{"s":null,"d":"y","t":"1969-12-31T23:59:59.999999Z","v":"short"}"#,
    ];
    let pieces = decoded(stream_of(&[&nested()])).unwrap();
    let Piece::Good(batch) = &pieces[0] else { panic!() };
    assert_eq!(lines(batch).collect::<Vec<_>>(), expected);
    assert_eq!(lines(&batch.slice(1..3)).collect::<Vec<_>>(), expected[1..]);
}

#[test]
fn values_without_a_text_are_faults_of_their_records() {
    let batch = batch_of(vec![("x", Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::NEG_INFINITY])))]);
    let Piece::Good(batch) = decoded(stream_of(&[&batch])).unwrap().remove(0) else { panic!() };
    let RecordFaults(faults) = batch.to_ndjson().unwrap_err();
    assert_eq!(faults.iter().map(|(offset, fault)| (*offset, fault.column.as_deref())).collect::<Vec<_>>(), [(101, Some("x")), (102, Some("x"))]);
    assert_eq!(batch.original(1), r#"{"x":"NaN"}"#);
    let mut hash = RollingHash::from_value(5);
    assert!(batch.advance(&mut hash).is_err());
    assert_eq!(hash.value(), 5);
    assert!(batch.slice(0..1).to_ndjson().is_ok());
}

#[test]
fn mutated_streams_are_read_or_refused() {
    let sources = [stream_of(&[&nested(), &nested()]), stream_of(&[&one_column()])];
    let mut random = StdRng::seed_from_u64(20_261_124);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut stream = sources[random.random_range(0..sources.len())].clone();
        for _ in 0..random.random_range(1..=4) {
            let place = random.random_range(0..stream.len());
            match random.random_range(0..3) {
                0 => stream[place] = random.random(),
                1 => stream[place] ^= 1 << random.random_range(0..8),
                _ => stream[place] = [0, 0xff, 0x7f, 0x80][random.random_range(0..4)],
            }
        }
        if random.random_range(0..10) == 0 {
            stream.truncate(random.random_range(0..stream.len()));
        }
        match decoded(stream) {
            Ok(pieces) => {
                read += 1;
                for piece in pieces {
                    let Piece::Good(batch) = piece else { panic!() };
                    assert!(batch.byte_count() <= BATCH_DECODED_BYTES_MAX as u64);
                    // A record may have no text any more; it must say so.
                    let _ = batch.to_ndjson();
                    let _ = batch.original(0);
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}
