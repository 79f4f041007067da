//! Why: says step by step what stands between this service and a bucket, and finds out whether the store keeps the one promise that everything rests on. Never touches an object that is not its own.

use futures::StreamExt;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path};

use super::{
    bucket::{Bucket, BucketSource},
    endpoint::Endpoint,
};
use crate::connectors::{
    connector::{ConnectContext, Probe},
    error::{ConnectorError, ConnectorErrorKind as Kind},
    steps::Steps,
};

const STEPS: [&str; 8] = ["configuration", "credential", "resolve", "connect", "tls", "authenticate", "authorize", "write"];
/// Under a prefix: what the service keeps there for itself.
const OWN: &str = "_datasink";

fn path(prefix: &str, name: &str) -> Path {
    let path = format!("{prefix}/{OWN}/{name}");
    // Paths are encoded already: encoding them again would give the probe a folder of its own.
    Path::parse(path.trim_start_matches('/')).unwrap_or_else(|_| Path::from(path))
}

/// Whether the store refuses to create an object of a name that is taken; the object stays below `folder`, so that the next time is one request.
pub(super) async fn conditional_create_honoured(bucket: &Bucket, folder: &str) -> Result<bool, ConnectorError> {
    create_twice(bucket, &path(folder, "conditional-create")).await
}

/// Whether the store refuses to create an object of a name that is taken. Stores that ignore the condition exist, and overwrite silently: one object is created twice, and the
/// second time must fail.
async fn create_twice(bucket: &Bucket, path: &Path) -> Result<bool, ConnectorError> {
    for _ in 0..2 {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match bucket.store.put_opts(path, PutPayload::from_static(b"made by datasink to see whether names are taken once\n"), options).await {
            Ok(_) => {}
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => return Ok(true),
            Err(fault) => return Err(bucket.explain(&fault, &format!("write {}", bucket.uri(path.as_ref())))),
        }
    }
    Ok(false)
}

/// Tries the steps one by one; those after a failed one are skipped, and so is the last one unless `write`.
pub(super) async fn probe(source: &dyn BucketSource, cx: &ConnectContext, prefix: &str, write: bool) -> Probe {
    let mut steps = Steps::new();
    if let Some(bucket) = walk(&mut steps, source, cx).await
        && write
    {
        written(&mut steps, &bucket, prefix, cx).await;
    }
    Probe { steps: steps.end(&STEPS), checked: cx.ambient.now() }
}

/// Everything up to the list of the bucket; `None` once a step has failed.
async fn walk(steps: &mut Steps, source: &dyn BucketSource, cx: &ConnectContext) -> Option<Bucket> {
    let endpoint = source.endpoint(cx).and_then(|endpoint| match &endpoint {
        Some(there) => allowed(there, cx).map(|()| endpoint),
        None => Ok(endpoint),
    });
    let shown = |endpoint: &Option<Endpoint>| endpoint.iter().map(|there| ("endpoint".to_owned(), there.as_base())).collect();
    let endpoint = steps.tried("configuration", endpoint, shown)?;
    let bucket = steps.tried("credential", source.bucket(cx).await, |_| Vec::new())?;
    match endpoint {
        Some(endpoint) => connected(steps, &bucket, &endpoint, cx).await?,
        None => ["resolve", "connect", "tls"].into_iter().for_each(|name| steps.skipped(name)),
    }
    listed(steps, &bucket).await?;
    Some(bucket)
}

fn allowed(endpoint: &Endpoint, cx: &ConnectContext) -> Result<(), ConnectorError> {
    let host = endpoint.url.host().ok_or_else(|| ConnectorError::new(Kind::Internal, "a bucket without a host was stored"))?;
    Ok(cx.egress.check_host(&host, endpoint.port(), endpoint.kind)?)
}

async fn connected(steps: &mut Steps, bucket: &Bucket, endpoint: &Endpoint, cx: &ConnectContext) -> Option<()> {
    let host = endpoint.url.host_str().unwrap_or_default();
    let addresses = cx.egress.resolve(host, endpoint.port(), bucket.kind).await.map_err(ConnectorError::from);
    let addresses = steps.tried("resolve", addresses, |found| vec![("addresses".to_owned(), found.len().to_string())])?;
    let stream = cx.egress.connect(host, &addresses, cx.connection_timeout).await.map_err(ConnectorError::from);
    let stream = steps.tried("connect", stream, |stream| stream.peer_addr().map(|peer| ("address".to_owned(), peer.to_string())).into_iter().collect())?;
    if endpoint.url.scheme() == "http" {
        steps.skipped("tls");
        return Some(());
    }
    if !endpoint.verify_tls {
        // Whatever the certificate says, the sink takes it.
        steps.tried("tls", Ok(()), |()| vec![("certificate".to_owned(), "not verified".to_owned())]);
        return Some(());
    }
    let stream = cx.egress.handshake(host, stream, cx.connection_timeout).await.map_err(ConnectorError::from);
    steps.tried("tls", stream, |stream| {
        let version = stream.get_ref().1.protocol_version().and_then(|version| version.as_str());
        version.map(|version| ("version".to_owned(), version.to_owned())).into_iter().collect()
    })?;
    Some(())
}

/// Who we are, and whether we may see what is there: the end of a stream is found by looking.
async fn listed(steps: &mut Steps, bucket: &Bucket) -> Option<()> {
    let first = bucket.store.list(None).next().await.transpose();
    let found = first.map_err(|fault| bucket.explain(&fault, &format!("list {bucket}")));
    let (authenticated, authorized) = match found {
        Ok(first) => (Ok(()), Ok(first)),
        // Known, and not allowed.
        Err(fault) if matches!(fault.kind, Kind::PermissionDenied | Kind::NotFound) => (Ok(()), Err(fault)),
        Err(fault) => (Err(fault), Ok(None)),
    };
    steps.tried("authenticate", authenticated, |()| Vec::new())?;
    steps.tried("authorize", authorized, |first| vec![("bucket".to_owned(), if first.is_some() { "has objects" } else { "is empty" }.to_owned())])?;
    Some(())
}

async fn written(steps: &mut Steps, bucket: &Bucket, prefix: &str, cx: &ConnectContext) {
    // A name of its own: streams that open now must not see theirs taken away.
    let path = path(prefix, &format!("probe-{}", cx.ambient.ids.uuid().simple()));
    let honoured = create_twice(bucket, &path).await.map_err(|mut fault| {
        if fault.kind == Kind::PermissionDenied {
            fault.message = format!("{} (the credential may read it)", fault.message);
        }
        fault
    });
    let removed = match honoured {
        Ok(_) => bucket.store.delete(&path).await.is_ok(),
        Err(_) => false,
    };
    steps.tried("write", honoured, |honoured| {
        let guarantee = if *honoured { "honoured" } else { "ignored: an object can be overwritten, so exactly-once is not to be had" };
        let mut details = vec![("object".to_owned(), bucket.uri(path.as_ref())), ("conditional_create".to_owned(), guarantee.to_owned())];
        if !removed {
            details.push(("left_behind".to_owned(), "the credential may not delete objects".to_owned()));
        }
        details
    });
}
