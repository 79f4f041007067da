//! The kind on its own, and against a real server.

use std::{net::SocketAddr, sync::atomic::Ordering};

use http::{HeaderMap, Method};
use object_store::{
    ObjectStoreExt, PutMode, PutOptions, PutPayload,
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpRequest, HttpRequestBody},
    path::Path,
};
use url::Url;

use super::*;
use crate::connectors::{
    connector::StepResult,
    error::{ConnectorErrorKind as E, ErrorClass, Retry},
    object::{
        TokenService,
        testing::{Canned, Road, answer, context, failure, fields, fresh, hostile_names, laws_of_a_bucket, line, options, server, sink},
    },
};

const BASE: [(&str, &str); 2] = [("s3_bucket_name", "orders"), ("s3_region", "eu-central-1")];
const ROLE: &str = "arn:aws:iam::123456789012:role/datasink";

/// A destination, options, and the fields at fault.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

fn place(destination: &str, given: &[(&str, &str)]) -> Result<Place, Vec<ConfigFault>> {
    let given: Vec<(&str, &str)> = BASE.iter().filter(|(key, _)| !given.iter().any(|(other, _)| other == key)).chain(given).copied().collect();
    Place::check(&Destination::parse(destination).expect("a destination"), &options(&S3, &given)?)
}

fn endpoint(destination: &str, given: &[(&str, &str)]) -> String {
    place(destination, given).expect("a place").endpoint().expect("an endpoint").as_base()
}

#[test]
fn requests_go_where_the_destination_and_the_options_say() {
    let path_style = ("s3_use_virtual_addressing", "false");
    assert_eq!(endpoint("s3", &[]), "https://orders.s3.eu-central-1.amazonaws.com");
    assert_eq!(endpoint("s3", &[path_style]), "https://s3.eu-central-1.amazonaws.com");
    assert_eq!(endpoint("s3", &[("s3_region", "cn-north-1")]), "https://orders.s3.cn-north-1.amazonaws.com.cn");
    assert_eq!(endpoint("S3://minio.example:9000", &[("use_https", "false")]), "http://orders.minio.example:9000");
    assert_eq!(endpoint("s3://127.0.0.1:9000", &[("use_https", "false")]), "http://127.0.0.1:9000", "nothing stands before an address");
    assert_eq!(endpoint("s3", &[("s3_bucket_name", "a.b.c")]), "https://s3.eu-central-1.amazonaws.com", "a wildcard certificate covers one label");
    assert_eq!(endpoint("s3://minio.example", &[("s3_bucket_name", "a.b.c"), ("use_https", "false")]), "http://a.b.c.minio.example");
}

#[test]
fn every_fault_is_told_at_once() {
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let algorithm = ("s3_encryption_customer_algorithm", "AES256");
    let table: [Row; 16] = [
        ("s3://169.254.169.254/x", &[("s3_bucket_name", "No"), ("s3_region", "EU")], &["s3_bucket_name", "s3_region", "destination"]),
        ("s3", &[("credential", "s.c"), ("use_managed_credentials", "true")], &["credential"]),
        ("s3", &[("s3_aws_role_arn", ROLE)], &["credential"]),
        ("s3", &[("s3_aws_role_arn", "admin"), ("credential", "s.c")], &["s3_aws_role_arn"]),
        ("s3", &[("s3_bucket_name", "a..b")], &["s3_bucket_name"]),
        ("s3", &[("s3_bucket_name", "192.168.0.1")], &["s3_bucket_name"]),
        ("s3", &[("s3_bucket_name", "orders--euw1-az1--x-s3")], &["s3_bucket_name"]),
        ("s3", &[("s3_bucket_name", "../etc")], &["s3_bucket_name"]),
        ("s3", &[algorithm], &["s3_encryption_customer_key"]),
        ("s3", &[("s3_encryption_customer_key", key)], &["s3_encryption_customer_algorithm"]),
        ("s3", &[algorithm, ("s3_encryption_customer_key", "c2hvcnQ=")], &["s3_encryption_customer_key"]),
        ("s3", &[algorithm, ("s3_encryption_customer_key", key), ("use_https", "false")], &["s3_encryption_customer_key"]),
        ("s3", &[algorithm, ("s3_encryption_customer_key", key), ("s3_verify_ssl", "false")], &["s3_encryption_customer_key"]),
        ("s3", &[algorithm, ("s3_encryption_customer_key", key), ("s3_encryption_type", "AES256")], &["s3_encryption_customer_key"]),
        ("s3", &[("s3_kms_key_id", "k"), ("s3_encryption_type", "AES256")], &["s3_kms_key_id"]),
        ("s3", &[("s3_encryption_type", "rot13"), ("s3_buket_name", "x")], &["s3_buket_name", "s3_encryption_type"]),
    ];
    for (destination, given, wanted) in table {
        let faults = place(destination, given).expect_err("faults");
        assert_eq!(fields(&faults), wanted, "{given:?}: {faults:?}");
        assert!(!format!("{faults:?}").contains("MDEyMzQ1"), "a key is repeated");
    }
    assert!(place("s3", &[algorithm, ("s3_encryption_customer_key", key)]).is_ok());
    assert!(place("s3", &[("s3_aws_role_arn", ROLE), ("use_managed_credentials", "true")]).is_ok());
    let missing = sink(&S3, "s3", &[]).expect_err("faults");
    assert_eq!(fields(&missing), ["s3_bucket_name", "s3_region"]);
}

#[test]
fn words_for_encryption_become_what_they_say() {
    let of = |given: &[(&str, &str)]| place("s3", given).expect("a place").encryption;
    assert_eq!(of(&[]), Encryption::AsTheBucketSays);
    assert_eq!(of(&[("s3_encryption_type", "AES256")]), Encryption::Managed);
    assert_eq!(of(&[("s3_kms_key_id", "k")]), Encryption::Kms { key: Some("k".to_owned()), twice: false });
    assert_eq!(of(&[("s3_encryption_type", "aws:kms:dsse")]), Encryption::Kms { key: None, twice: true });
}

/// A bucket of a server that answers as told, with keys.
async fn canned(server: SocketAddr, given: &[(&str, &str)], cx: &ConnectContext) -> Result<Bucket, ConnectorError> {
    let given: Vec<(&str, &str)> = [("use_https", "false")].into_iter().chain(given.iter().copied()).collect();
    place(&format!("s3://{server}"), &given).expect("a place").bucket(cx).await
}

fn keys(cx: ConnectContext) -> ConnectContext {
    cx.knowing(CredentialType::AwsAccessKey, "AKIAEXAMPLE", "s3cr3t-canary", &[])
}

async fn put(bucket: &Bucket) -> Result<(), ConnectorError> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = bucket.store.put_opts(&Path::from("k"), PutPayload::from_static(b"x"), options).await;
    put.map(|_| ()).map_err(|fault| bucket.explain(&fault, "write s3://orders/k"))
}

#[tokio::test]
async fn every_answer_has_one_meaning_and_no_body_is_repeated() {
    use ErrorClass as C;
    let table: [(&str, &str, &str, E, C, Retry, &str); 22] = [
        ("403 x", "InvalidAccessKeyId", "", E::Unauthenticated, C::Configuration, Retry::Never, "knows no such access key id"),
        ("403 x", "SignatureDoesNotMatch", "", E::Unauthenticated, C::Configuration, Retry::Never, "secret of the credential"),
        ("400 x", "ExpiredToken", "", E::Unauthenticated, C::Configuration, Retry::Never, "expired"),
        ("403 x", "RequestTimeTooSkewed", "", E::Misconfigured, C::Configuration, Retry::Never, "clock"),
        ("403 x", "AccessDenied", "", E::PermissionDenied, C::Configuration, Retry::Never, "may not do this"),
        ("403 x", "AccessDenied", "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n", E::Misconfigured, C::Configuration, Retry::Never, "minutes"),
        ("403 x", "MadeUpByAttackers", "", E::PermissionDenied, C::Configuration, Retry::Never, "may not do this"),
        ("404 x", "NoSuchBucket", "", E::NotFound, C::Configuration, Retry::Never, "there is no bucket orders"),
        ("404 x", "NoSuchKey", "", E::NotFound, C::Configuration, Retry::Never, "no such object"),
        ("404 x", "NoSuchUpload", "", E::Unknown, C::Destination, Retry::Backoff, "upload in parts"),
        ("409 x", "ConditionalRequestConflict", "", E::Throttled, C::Destination, Retry::Backoff, "under way"),
        ("412 x", "PreconditionFailed", "", E::Unknown, C::Destination, Retry::Backoff, "there already"),
        ("301 x", "PermanentRedirect", "x-amz-bucket-region: eu-west-1\r\n", E::Misconfigured, C::Configuration, Retry::Never, "it is in eu-west-1"),
        ("400 x", "AuthorizationHeaderMalformed", "x-amz-bucket-region: <evil>\r\n", E::Misconfigured, C::Configuration, Retry::Never, "s3_region"),
        ("503 x", "SlowDown", "Retry-After: 7\r\n", E::Throttled, C::Destination, Retry::After(std::time::Duration::from_secs(7)), "slow down"),
        ("429 x", "", "", E::Throttled, C::Destination, Retry::Backoff, "slow down"),
        ("500 x", "InternalError", "", E::Unknown, C::Destination, Retry::Backoff, "cannot be told"),
        ("502 x", "", "", E::Unknown, C::Destination, Retry::Backoff, "cannot be told"),
        ("501 x", "NotImplemented", "", E::Misconfigured, C::Configuration, Retry::Never, "options"),
        ("400 x", "KMS.NotFoundException", "", E::Misconfigured, C::Configuration, Retry::Never, "encrypt"),
        ("507 x", "XMinioStorageFull", "", E::Throttled, C::Destination, Retry::Backoff, "full"),
        ("400 x", "EntityTooLarge", "", E::TooLarge, C::Configuration, Retry::Never, "max_object_bytes"),
    ];
    for (status, code, headers, kind, class, retry, part) in table {
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>b0dy-canary</Message></Error>");
        let store = Canned::start(move |_| answer(status, headers, &body)).await;
        let cx = keys(context(b"", false, &[]));
        let fault = put(&canned(store.address, &[], &cx).await.expect("a bucket")).await.expect_err("refused");
        assert_eq!((fault.kind, fault.class, fault.retry), (kind, class, retry), "{status} {code}: {fault}");
        assert!(fault.message.contains(part) && fault.message.starts_with("cannot write s3://orders/k: "), "{status} {code}: {fault}");
        assert!(!format!("{fault:?}").contains("canary") && !fault.message.contains("MadeUp") && !fault.message.contains("evil"), "{fault:?}");
        assert_eq!(store.seen().len(), 1, "nothing is tried twice");
    }
}

#[tokio::test]
async fn nothing_is_followed_and_nothing_inside_is_reached() {
    let secret = Canned::start(|_| answer("200 OK", "", "")).await;
    let location = format!("Location: http://{}/latest/meta-data\r\n", secret.address);
    let store = Canned::start(move |_| answer("307 Temporary Redirect", &location, "")).await;
    let cx = keys(context(b"", false, &[]));
    let fault = put(&canned(store.address, &[], &cx).await.expect("a bucket")).await.expect_err("refused");
    assert_eq!((fault.kind, secret.seen().len()), (E::Misconfigured, 0), "{fault}");

    // A name that turns out to be the metadata service, however much is allowed.
    let cx = keys(hostile_names());
    let bucket = place("s3://innocent.example", &[("use_https", "false")]).expect("a place").bucket(&cx).await.expect("a bucket");
    let fault = put(&bucket).await.expect_err("refused");
    assert_eq!((fault.kind, fault.retry), (E::BlockedAddress, Retry::Never), "{fault}");
    let probe = sink(&S3, "s3://innocent.example", &[BASE[0], BASE[1], ("use_https", "false")]).expect("a sink").probe(&cx, true).await;
    assert_eq!(line(&probe), "configuration+ credential+ resolve- connect~ tls~ authenticate~ authorize~ write~");

    // Neither does the client of the metadata services go anywhere else, nor any other client there.
    let managed = context(b"", true, &[]);
    for url in ["http://10.0.0.1/", "http://1.1.1.1/latest", "http://[fd00::1]/", "http://169.254.1.1/"] {
        let fault =
            TokenService::of_this_host(&managed, SinkKind::S3, url, "it").expect("a client").ask(Method::GET, HeaderMap::new(), "").await.expect_err("refused");
        assert_eq!(fault.kind, E::BlockedAddress, "{url}: {fault}");
    }
    let url = Url::parse("https://169.254.169.254/").expect("a URL");
    let fault =
        TokenService::on_the_net(&managed, SinkKind::S3, &url, "it").expect("a client").ask(Method::GET, HeaderMap::new(), "").await.expect_err("refused");
    assert_eq!(fault.kind, E::BlockedAddress, "{fault}");
    let url = Url::parse("http://10.0.0.1/").expect("a URL");
    let fault =
        TokenService::on_the_net(&managed, SinkKind::S3, &url, "it").expect("a client").ask(Method::GET, HeaderMap::new(), "").await.expect_err("refused");
    assert_eq!(fault.kind, E::Misconfigured, "a token service is told secrets: {fault}");
}

#[tokio::test]
async fn without_a_connection_the_reason_is_told() {
    let cx = keys(context(b"", false, &[]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dead = listener.local_addr().expect("an address");
    drop(listener);
    let fault = put(&canned(dead, &[], &cx).await.expect("a bucket")).await.expect_err("nobody there");
    assert_eq!((fault.kind, fault.retry), (E::Unreachable, Retry::Backoff), "{fault}");
    let probe = sink(&S3, &format!("s3://{dead}"), &[BASE[0], BASE[1], ("use_https", "false")]).expect("a sink").probe(&cx, false).await;
    assert_eq!(line(&probe), "configuration+ credential+ resolve+ connect- tls~ authenticate~ authorize~ write~");

    let (store, authority) = Canned::over_tls("localhost", |_| answer("404 Not Found", "", "<Error><Code>NoSuchBucket</Code></Error>")).await;
    let port = store.address.port();
    let at = async |roots: &[u8], host: &str, verify: &str| {
        let cx = keys(context(roots, false, &[]));
        let place = place(&format!("s3://{host}:{port}"), &[("s3_verify_ssl", verify), ("s3_use_virtual_addressing", "false")]).expect("a place");
        put(&place.bucket(&cx).await.expect("a bucket")).await.expect_err("no bucket")
    };
    let foreign = at(b"", "localhost", "true").await;
    assert_eq!(foreign.kind, E::Tls, "{foreign}");
    assert!(foreign.message.contains("egress_ca"), "{foreign}");
    let other = at(authority.as_bytes(), "elsewhere.example", "true").await;
    assert!(other.kind == E::Tls && other.message.contains("another host's"), "{other}");
    assert_eq!(at(authority.as_bytes(), "localhost", "true").await.kind, E::NotFound);
    assert_eq!(at(b"", "elsewhere.example", "false").await.kind, E::NotFound, "s3_verify_ssl=false takes any certificate");
}

#[tokio::test]
async fn a_store_that_ignores_the_condition_is_found_out() {
    let probe = async |refuses: bool| {
        let store = Canned::start(move |seen| match seen.line().split(' ').next() {
            Some("GET") => answer("200 OK", "", "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"),
            Some("DELETE") => answer("403 x", "", "<Error><Code>AccessDenied</Code></Error>"),
            _ if refuses => answer("403 x", "", "<Error><Code>AccessDenied</Code></Error>"),
            _ => answer("200 OK", "ETag: \"e\"\r\n", ""),
        })
        .await;
        let given = [BASE[0], BASE[1], ("use_https", "false")];
        let cx = keys(context(b"", false, &[]));
        let probe = sink(&S3, &format!("s3://{}", store.address), &given).expect("a sink").probe(&cx, true).await;
        (probe, store.seen().iter().filter(|seen| seen.line().starts_with("PUT ")).count())
    };
    let (ignores, puts) = probe(false).await;
    assert_eq!(line(&ignores), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize+ write+", "{}", failure(&ignores));
    assert!(ignores.steps[7].details.iter().any(|(key, value)| key == "conditional_create" && value.starts_with("ignored")), "{:?}", ignores.steps[7]);
    assert!(ignores.steps[7].details.iter().any(|(key, _)| key == "left_behind") && puts == 2);
    let (denied, _) = probe(true).await;
    assert_eq!(line(&denied), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize+ write-");
    assert!(failure(&denied).contains("the credential may read it"), "{}", failure(&denied));
}

#[tokio::test]
async fn a_role_is_assumed_once_and_its_session_renews_itself() {
    let store = Canned::start(|seen| {
        if seen.line() == "POST /" {
            let session = "<Credentials><AccessKeyId>ASIA1</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>t0ken</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>";
            return answer("200 OK", "", &format!("<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>{session}</AssumeRoleResult></AssumeRoleResponse>"));
        }
        answer("403 x", "", "<Error><Code>InvalidAccessKeyId</Code></Error>")
    })
    .await;
    let cx = context(b"", false, &[]).knowing(CredentialType::AwsIamRole, "AKIAEXAMPLE", "s3cr3t-canary", &[("s3_aws_role_arn", ROLE)]);
    let bucket = canned(store.address, &[], &cx).await.expect("a bucket");
    for _ in 0..2 {
        let fault = put(&bucket).await.expect_err("refused");
        // A session that the store no longer knows is over: the next connection asks for another.
        assert_eq!((fault.kind, fault.class, fault.retry), (E::Unauthenticated, ErrorClass::Destination, Retry::Backoff), "{fault}");
    }
    let seen = store.seen();
    assert_eq!(seen.iter().map(|seen| seen.line()).collect::<Vec<_>>(), ["POST /", "PUT /orders/k", "PUT /orders/k"]);
    let form = String::from_utf8_lossy(&seen[0].body).into_owned();
    assert!(form.contains("Action=AssumeRole&") && form.contains("role%2Fdatasink") && !form.contains("canary"), "{form}");
    assert!(seen[0].header("authorization").contains("/eu-central-1/sts/aws4_request"));
    assert_eq!((seen[1].header("x-amz-security-token"), seen[1].header("if-none-match")), ("t0ken", "*"));

    let differs =
        canned(store.address, &[("s3_aws_role_arn", "arn:aws:iam::123456789012:role/other"), ("credential", "s.c")], &cx).await.expect_err("two roles");
    assert_eq!(differs.kind, E::Misconfigured);
}

#[tokio::test]
async fn the_identity_of_this_host_is_used_where_both_say_so() {
    let cloud = Canned::start(|seen| match (seen.line(), seen.header("x-aws-ec2-metadata-token"), seen.header("authorization")) {
        ("PUT /latest/api/token", ..) if !seen.header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() => answer("200 OK", "", "imds-token"),
        ("GET /latest/meta-data/iam/security-credentials/", "imds-token", _) => answer("200 OK", "", "the-role\n"),
        ("GET /latest/meta-data/iam/security-credentials/the-role", "imds-token", _) | ("GET /container?x=y", _, "pod-token") => {
            answer("200 OK", "", r#"{"Code":"Success","AccessKeyId":"ASIA2","SecretAccessKey":"x","Token":"t0ken","Expiration":"2999-01-01T00:00:00Z"}"#)
        }
        _ => answer("401 Unauthorized", "", "b0dy-canary"),
    })
    .await;
    let store = Canned::start(|_| answer("200 OK", "ETag: \"e\"\r\n", "")).await;
    let (here, container) = (format!("http://{}", cloud.address), format!("http://{}/container?x=y", cloud.address));
    let managed = [("use_managed_credentials", "true")];
    let flows: [(&[(&str, &str)], &str); 3] = [
        (&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &here)], "t0ken"),
        (
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token"),
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9"),
            ],
            "t0ken",
        ),
        (
            &[
                ("AWS_ACCESS_KEY_ID", "ASIA3"),
                ("AWS_SECRET_ACCESS_KEY", "x"),
                ("AWS_SESSION_TOKEN", "t3"),
                ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9"),
            ],
            "t3",
        ),
    ];
    for (variables, token) in flows {
        let bucket = canned(store.address, &managed, &context(b"", true, variables)).await.expect("a bucket");
        put(&bucket).await.expect("written");
        assert_eq!(store.seen().last().expect("a request").header("x-amz-security-token"), token, "{variables:?}");
        let refused = canned(store.address, &managed, &context(b"", false, variables)).await.expect_err("the operator has not allowed it");
        assert_eq!((refused.kind, refused.message.contains("egress_managed_credentials")), (E::Misconfigured, true));
    }
    let wrong = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str())];
    let fault = put(&canned(store.address, &managed, &context(b"", true, &wrong)).await.expect("a bucket")).await.expect_err("no token");
    assert_eq!((fault.kind, fault.retry, fault.message.contains("canary")), (E::Unauthenticated, Retry::Never, false), "{fault}");
}

#[tokio::test]
async fn a_session_goes_in_the_clear_to_this_machine_only() {
    let variables = [("AWS_ACCESS_KEY_ID", "ASIA3"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_SESSION_TOKEN", "t3")];
    let given = [("use_https", "false"), ("use_managed_credentials", "true")];
    let there = place("s3://8.8.8.8", &given).expect("a place").bucket(&context(b"", true, &variables)).await.expect("a bucket");
    let fault = put(&there).await.expect_err("in the clear");
    assert_eq!(fault.kind, E::Misconfigured, "{fault}");

    // Nor are the keys of a role told to a token service that is elsewhere and without TLS.
    let role = context(b"", false, &[]).knowing(CredentialType::AwsIamRole, "AKIAEXAMPLE", "x", &[("s3_aws_role_arn", ROLE)]);
    let there = place("s3://8.8.8.8", &[("use_https", "false")]).expect("a place").bucket(&role).await.expect("a bucket");
    let fault = put(&there).await.expect_err("in the clear");
    assert_eq!(fault.kind, E::Misconfigured, "{fault}");
}

#[tokio::test]
async fn a_broken_connection_is_unknown_and_nothing_is_tried_twice() {
    // The library would repeat what only reads.
    let store = Canned::start(|_| String::new()).await;
    let bucket = canned(store.address, &[], &keys(context(b"", false, &[]))).await.expect("a bucket");
    let fault = bucket.store.head(&Path::from("k")).await.expect_err("no answer");
    let fault = bucket.explain(&fault, "read s3://orders/k");
    assert_eq!((fault.kind, fault.retry, store.seen().len()), (E::Unknown, Retry::Backoff, 1), "{fault}");
}

// ---- against MinIO ----

struct Minio {
    address: SocketAddr,
    key: String,
    secret: String,
}

impl Minio {
    fn new() -> Option<Self> {
        let (endpoint, key, secret) = (server("S3_ENDPOINT")?, server("S3_ACCESS_KEY")?, server("S3_SECRET_KEY")?);
        Some(Self { address: endpoint.strip_prefix("http://")?.parse().ok()?, key, secret })
    }

    fn cx(&self) -> ConnectContext {
        context(b"", false, &[]).knowing(CredentialType::AwsAccessKey, &self.key, &self.secret, &[])
    }

    /// A signed request of ours, for what the library cannot ask.
    async fn ask(&self, method: Method, path: &str, body: &'static str) {
        let url = Url::parse(&format!("http://{}{path}", self.address)).expect("a URL");
        let credential = AwsCredential { key_id: self.key.clone(), secret_key: self.secret.clone(), token: None };
        let mut request = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse().expect("a URI");
        AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).expect("signed");
        let service = TokenService::on_the_net(&self.cx(), SinkKind::S3, &url, "MinIO").expect("a client");
        service.ask(method, request.into_parts().0.headers, body).await.expect("done");
    }

    async fn new_bucket(&self) -> String {
        let name = fresh("stores");
        self.ask(Method::PUT, &format!("/{name}"), "").await;
        name
    }

    async fn open(&self, bucket: &str, address: SocketAddr, given: &[(&str, &str)], cx: &ConnectContext) -> Bucket {
        let base = [("s3_bucket_name", bucket), ("s3_region", "us-east-1"), ("use_https", "false")];
        let given: Vec<(&str, &str)> = base.into_iter().chain(given.iter().copied()).collect();
        place(&format!("s3://{address}"), &given).expect("a place").bucket(cx).await.expect("a bucket")
    }
}

#[tokio::test]
async fn minio_keeps_the_laws_for_every_credential() {
    let Some(minio) = Minio::new() else { return };
    let name = minio.new_bucket().await;
    laws_of_a_bucket(&minio.open(&name, minio.address, &[], &minio.cx()).await).await;

    let role = context(b"", false, &[]).knowing(CredentialType::AwsIamRole, &minio.key, &minio.secret, &[("s3_aws_role_arn", ROLE)]);
    laws_of_a_bucket(&minio.open(&name, minio.address, &[], &role).await).await;

    let nobody = context(b"", false, &[]);
    let closed = minio.open(&name, minio.address, &[], &nobody).await;
    let fault = put(&closed).await.expect_err("not for everybody");
    assert!(fault.kind == E::PermissionDenied && fault.message.contains("give the sink one"), "{fault}");
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":["s3:*"],"Resource":["arn:aws:s3:::{name}","arn:aws:s3:::{name}/*"]}}]}}"#
    );
    minio.ask(Method::PUT, &format!("/{name}?policy="), policy.leak()).await;
    laws_of_a_bucket(&closed).await;
}

/// Options, and the algorithm and the key that they must lead to.
type Flow<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

/// What boto3 is told of an object: how the store encrypts it, and with which key.
async fn head_by_a_stranger(bucket: &str, key: &str) -> (String, String) {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/stores.py");
    let python = server("SERVICES_PYTHON").expect("set beside");
    let told = tokio::process::Command::new(python).arg("-B").arg(script).args(["s3", "encryption", bucket, key]).output().await.expect("it runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let text = String::from_utf8(told.stdout).expect("text");
    let (algorithm, key) = text.trim_end_matches('\n').split_once(' ').expect("two words");
    (algorithm.to_owned(), key.to_owned())
}

#[tokio::test]
async fn minio_encrypts_as_the_options_say_and_a_stranger_sees_it() {
    let (Some(minio), Some(kms_key)) = (Minio::new(), server("S3_KMS_KEY")) else { return };
    let flows: [Flow; 4] = [
        (&[], "none", ""),
        (&[("s3_encryption_type", "AES256")], "AES256", ""),
        (&[("s3_kms_key_id", &kms_key)], "aws:kms", &kms_key),
        (&[("s3_encryption_type", "aws:kms"), ("s3_kms_key_id", &kms_key)], "aws:kms", &kms_key),
    ];
    for (given, algorithm, key) in flows {
        let name = minio.new_bucket().await;
        let bucket = minio.open(&name, minio.address, given, &minio.cx()).await;
        laws_of_a_bucket(&bucket).await;
        put(&bucket).await.expect("written");
        let parts = Path::from("parts");
        let id = bucket.parts.create_multipart(&parts).await.expect("begun");
        let part = bucket.parts.put_part(&parts, &id, 0, PutPayload::from_static(b"x")).await.expect("sent");
        bucket.parts.complete_multipart(&parts, &id, vec![part]).await.expect("completed");
        for object in ["k", "parts"] {
            let (told_algorithm, told_key) = head_by_a_stranger(&name, object).await;
            assert!(told_algorithm == algorithm && told_key.ends_with(key), "{given:?}: {object} is encrypted with {told_algorithm} {told_key}");
            let body = bucket.store.get(&Path::from(object)).await.expect("it is there").bytes().await.expect("read");
            assert_eq!(body.as_ref(), b"x");
        }
    }
    let unknown = minio.open(&minio.new_bucket().await, minio.address, &[("s3_kms_key_id", "no-such-key")], &minio.cx()).await;
    let fault = put(&unknown).await.expect_err("no such key");
    assert!(fault.class == ErrorClass::Configuration && fault.retry == Retry::Never, "{fault:?}");
}

#[tokio::test]
async fn minio_is_addressed_by_host_name() {
    let Some(minio) = Minio::new() else { return };
    let name = minio.new_bucket().await;
    let given = [("s3_bucket_name", name.as_str()), ("s3_region", "us-east-1"), ("use_https", "false")];
    let there = place(&format!("s3://s3.localhost:{}", minio.address.port()), &given).expect("a place");
    assert!(there.endpoint().expect("an endpoint").as_base().starts_with(&format!("http://{name}.s3.localhost:")));
    laws_of_a_bucket(&there.bucket(&minio.cx()).await.expect("a bucket")).await;
}

#[tokio::test]
async fn minio_says_what_is_wrong() {
    let Some(minio) = Minio::new() else { return };
    let name = minio.new_bucket().await;
    let with = |key: &str, secret: &str| context(b"", false, &[]).knowing(CredentialType::AwsAccessKey, key, secret, &[]);
    let fault = put(&minio.open(&name, minio.address, &[], &with(&minio.key, "s3cr3t-canary")).await).await.expect_err("wrong");
    assert!(fault.kind == E::Unauthenticated && fault.retry == Retry::Never && fault.message.contains("SignatureDoesNotMatch"), "{fault}");
    let fault = put(&minio.open(&name, minio.address, &[], &with("AKIANOBODY", "x")).await).await.expect_err("wrong");
    assert!(fault.kind == E::Unauthenticated && fault.message.contains("InvalidAccessKeyId"), "{fault}");

    let missing = minio.open("no-such-bucket-here", minio.address, &[], &minio.cx()).await;
    let fault = put(&missing).await.expect_err("no bucket");
    assert!(fault.kind == E::NotFound && fault.message.contains("there is no bucket no-such-bucket-here"), "{fault}");
    let found = minio.open(&name, minio.address, &[], &minio.cx()).await;
    let fault = found.explain(&found.store.head(&Path::from("k")).await.expect_err("no object"), "read it");
    assert!(fault.kind == E::NotFound && fault.message.contains("no such object"), "{fault}");

    let probe = async |bucket: &str, cx: &ConnectContext| {
        let given = [("s3_bucket_name", bucket), ("s3_region", "us-east-1"), ("use_https", "false")];
        sink(&S3, &format!("s3://{}", minio.address), &given).expect("a sink").probe(cx, true).await
    };
    let all = probe(&name, &minio.cx()).await;
    assert_eq!(line(&all), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize+ write+");
    assert!(all.steps[7].details.contains(&("conditional_create".to_owned(), "honoured".to_owned())), "{:?}", all.steps[7]);
    assert!(matches!(all.steps[6].result, StepResult::Passed) && found.store.list_with_delimiter(None).await.expect("a list").objects.is_empty());
    let probe_missing = probe("no-such-bucket-here", &minio.cx()).await;
    assert_eq!(line(&probe_missing), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize- write~");
    let probe_wrong = probe(&name, &with(&minio.key, "s3cr3t-canary")).await;
    assert_eq!(line(&probe_wrong), "configuration+ credential+ resolve+ connect+ tls~ authenticate- authorize~ write~");
    assert!(failure(&probe_wrong).contains("alter the credential"), "{}", failure(&probe_wrong));
}

#[tokio::test]
async fn a_lost_reply_of_minio_is_unknown_and_the_object_is_there() {
    let Some(minio) = Minio::new() else { return };
    let name = minio.new_bucket().await;
    let road = Road::to(minio.address).await;
    let far = minio.open(&name, road.address, &[], &minio.cx()).await;
    assert!(far.store.head(&Path::from("k")).await.is_err());
    road.cut.store(true, Ordering::SeqCst);
    let fault = put(&far).await.expect_err("no reply");
    assert_eq!((fault.kind, fault.class), (E::Unknown, ErrorClass::Destination), "{fault}");
    let near = minio.open(&name, minio.address, &[], &minio.cx()).await;
    assert_eq!(near.store.head(&Path::from("k")).await.expect("it is there").size, 1);
    let again = near.store.put_opts(&Path::from("k"), PutPayload::from_static(b"x"), PutOptions { mode: PutMode::Create, ..PutOptions::default() }).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
}

#[tokio::test]
async fn minio_over_tls_takes_a_web_identity_and_a_customers_key() {
    let (Some(endpoint), Some(ca)) = (server("S3_TLS_ENDPOINT"), server("S3_CA")) else { return };
    let (key, secret) = (server("S3_TLS_ACCESS_KEY").expect("set beside"), server("S3_TLS_SECRET_KEY").expect("set beside"));
    let address: SocketAddr = endpoint.trim_start_matches("https://").parse().expect("an address");
    let minio = Minio { address, key, secret };
    let roots = std::fs::read(ca).expect("the authority");
    let known = || context(&roots, false, &[]).knowing(CredentialType::AwsAccessKey, &minio.key, &minio.secret, &[]);
    let name = fresh("stores");
    let open = async |given: &[(&str, &str)], cx: &ConnectContext| {
        let base = [("s3_bucket_name", name.as_str()), ("s3_region", "us-east-1")];
        let given: Vec<(&str, &str)> = base.into_iter().chain(given.iter().copied()).collect();
        place(&format!("s3://{address}"), &given).expect("a place").bucket(cx).await.expect("a bucket")
    };
    let fault = put(&open(&[], &context(b"", false, &[]).knowing(CredentialType::AwsAccessKey, "k", "s", &[])).await).await.expect_err("foreign");
    assert_eq!(fault.kind, E::Tls, "{fault}");

    // The bucket is made over TLS as well.
    let url = Url::parse(&format!("https://{address}/{name}")).expect("a URL");
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = Method::PUT;
    *request.uri_mut() = url.as_str().parse().expect("a URI");
    let credential = AwsCredential { key_id: minio.key.clone(), secret_key: minio.secret.clone(), token: None };
    AwsAuthorizer::new(&credential, "s3", "us-east-1").try_authorize(&mut request, None).expect("signed");
    let service = TokenService::on_the_net(&known(), SinkKind::S3, &url, "MinIO").expect("a client");
    service.ask(Method::PUT, request.into_parts().0.headers, "").await.expect("made");

    laws_of_a_bucket(&open(&[], &known()).await).await;
    laws_of_a_bucket(
        &open(&[("s3_verify_ssl", "false")], &context(b"", false, &[]).knowing(CredentialType::AwsAccessKey, &minio.key, &minio.secret, &[])).await,
    )
    .await;
    let customer = [("s3_encryption_customer_algorithm", "AES256"), ("s3_encryption_customer_key", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")];
    let secret = open(&customer, &known()).await;
    put(&secret).await.expect("written");
    assert_eq!(secret.store.get(&Path::from("k")).await.expect("with the key").bytes().await.expect("read").as_ref(), b"x");
    assert!(open(&[], &known()).await.store.get(&Path::from("k")).await.is_err(), "nobody reads it without the key");

    let (Some(role), Some(file), Some(sts)) = (server("S3_ROLE_ARN"), server("S3_WEB_IDENTITY_TOKEN_FILE"), server("S3_STS_ENDPOINT")) else { return };
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", file.as_str()), ("AWS_ROLE_ARN", &role), ("AWS_ENDPOINT_URL_STS", &sts)];
    laws_of_a_bucket(&open(&[("use_managed_credentials", "true")], &context(&roots, true, &variables)).await).await;
}

#[tokio::test]
async fn minio_takes_what_the_metadata_services_hand_out() {
    let Some(minio) = Minio::new() else { return };
    let (Some(metadata), Some(container), Some(file)) =
        (server("FAKE_CLOUD_AWS_METADATA"), server("FAKE_CLOUD_AWS_CONTAINER_URI"), server("FAKE_CLOUD_AWS_CONTAINER_TOKEN_FILE"))
    else {
        return;
    };
    let name = minio.new_bucket().await;
    let flows: [&[(&str, &str)]; 2] = [
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata)],
        &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file)],
    ];
    for variables in flows {
        let cx = context(b"", true, variables);
        laws_of_a_bucket(&minio.open(&name, minio.address, &[("use_managed_credentials", "true")], &cx).await).await;
    }
}
