//! Why: opening a stream means to find the end of its chain; this asks the store what `chain.rs` decides about. Never trusts a listing alone, and never reads a record.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use object_store::{Attribute, Error, GetOptions, path::Path};

use super::{
    bucket::Bucket,
    chain::{Found, Link, Step, step},
    layout::Place,
};
use crate::{
    connectors::{
        connector::Noted,
        error::{ConnectorError, ConnectorErrorKind as Kind},
    },
    record::Offset,
};

/// The metadata field in which an object says what it is. One word, since Azure takes no hyphens in a name and proxies may drop underscores.
pub(super) const METADATA: &str = "datasink";
/// Objects at the end of a chain that are looked at one by one where our store has no note of it. What lies before is history: it was acknowledged, and whoever reads it may have moved it.
const LOOKED_AT_MAX: usize = 1_000;
/// How often the chain may change under the eyes of one open, before it is given up for this time.
const SURPRISES_MAX: usize = 100;

/// What was seen at a name.
#[derive(Debug)]
pub(super) struct Sighting {
    pub(super) found: Found,
    pub(super) e_tag: Option<String>,
    /// In bytes.
    pub(super) size: u64,
}

/// What is at `key`: one HEAD request.
pub(super) async fn look(bucket: &Bucket, key: &Path) -> Result<Sighting, ConnectorError> {
    match bucket.store.get_opts(key, GetOptions::new().with_head(true)).await {
        Ok(there) => {
            let said = there.attributes.get(&Attribute::Metadata(METADATA.into()));
            let found = said.and_then(|text| Link::parse(text)).map_or(Found::Foreign, Found::Link);
            Ok(Sighting { found, e_tag: there.meta.e_tag, size: there.meta.size })
        }
        Err(Error::NotFound { .. }) => Ok(Sighting { found: Found::Absent, e_tag: None, size: 0 }),
        Err(error) => Err(bucket.explain(&error, &format!("look at {}", bucket.uri(key.as_ref())))),
    }
}

/// The last object of a stream's chain, `None` where there is none.
pub(super) async fn find_end(bucket: &Bucket, place: &Place, noted: &Noted) -> Result<Option<Link>, ConnectorError> {
    let Some(mut at) = start(bucket, place, noted).await? else { return Ok(None) };
    let (mut end, mut surprises) = (None, 0);
    while surprises < SURPRISES_MAX {
        let key = place.object(at);
        let found = look(bucket, &key).await?.found;
        match (step(place.tag, at, &found), found) {
            (Step::On(next), Found::Link(link)) => (at, end) = (next, Some(link)),
            (Step::Last, Found::Link(link)) => return Ok(Some(link)),
            (Step::End, _) => {
                let Some(later) = beyond(bucket, place, at).await? else { return Ok(end) };
                surprises += 1;
                // Another owner may have created both since we looked.
                if look(bucket, &key).await?.found != Found::Absent {
                    continue;
                }
                match look(bucket, &place.object(later)).await?.found {
                    Found::Link(link) if link.begins => at = later,
                    // It was there a moment ago: somebody removes objects. The next look will tell more.
                    Found::Absent => {}
                    _ => return Err(hole(bucket, &key, &place.object(later))),
                }
            }
            _ => return Err(foreign(bucket, &key)),
        }
    }
    let text = format!("the objects under {} change while they are read; is another service writing or removing them?", bucket.uri(place.folder().as_ref()));
    Err(ConnectorError::new(Kind::Unknown, text))
}

/// Where to begin to walk: at the object that our store noted, at the end that it noted if that object was moved since, else at what the listing has.
async fn start(bucket: &Bucket, place: &Place, noted: &Noted) -> Result<Option<Offset>, ConnectorError> {
    if noted.here && noted.mark.next > 0 {
        let own = bucket.uri("");
        let receipt = noted.receipts.iter().rev().find_map(|receipt| place.first_of(receipt.uri.strip_prefix(&own)?));
        for at in receipt.into_iter().chain([noted.mark.next]) {
            let found = look(bucket, &place.object(at)).await?.found;
            if matches!(step(place.tag, at, &found), Step::On(_) | Step::Last) {
                return Ok(Some(at));
            }
        }
    }
    let mut last = BTreeSet::new();
    let mut listing = bucket.store.list(Some(&place.folder()));
    while let Some(object) = listing.try_next().await.map_err(|error| not_listed(bucket, place, &error))? {
        last.extend(place.first_of(object.location.as_ref()));
        if last.len() > LOOKED_AT_MAX {
            last.pop_first();
        }
    }
    Ok(last.first().copied())
}

/// The first object of the stream that is named by a later offset than `at`.
async fn beyond(bucket: &Bucket, place: &Place, at: Offset) -> Result<Option<Offset>, ConnectorError> {
    let mut first: Option<Offset> = None;
    let mut listing = bucket.store.list_with_offset(Some(&place.folder()), &place.object(at));
    while let Some(object) = listing.try_next().await.map_err(|error| not_listed(bucket, place, &error))? {
        let offset = place.first_of(object.location.as_ref()).filter(|offset| *offset > at);
        first = [first, offset].into_iter().flatten().min();
    }
    Ok(first)
}

fn not_listed(bucket: &Bucket, place: &Place, error: &Error) -> ConnectorError {
    bucket.explain(error, &format!("list {}", bucket.uri(place.folder().as_ref())))
}

/// Something at one of our names that is not ours.
pub(super) fn foreign(bucket: &Bucket, key: &Path) -> ConnectorError {
    let uri = bucket.uri(key.as_ref());
    let text = format!("{uri} exists and was not written by this stream; move it away, or give the sink another path_template");
    ConnectorError::new(Kind::Misconfigured, text).with("object", uri)
}

/// The store says that a name is taken and shows nothing there. Trying anew is what is left.
pub(super) fn vanished(bucket: &Bucket, key: &Path) -> ConnectorError {
    let uri = bucket.uri(key.as_ref());
    ConnectorError::new(Kind::Unknown, format!("the store says that {uri} exists, and then that it does not; did something else delete it?"))
        .with("object", uri)
}

fn hole(bucket: &Bucket, missing: &Path, later: &Path) -> ConnectorError {
    let (missing, later) = (bucket.uri(missing.as_ref()), bucket.uri(later.as_ref()));
    let text = format!(
        "{missing} is missing, though {later} after it exists, so acknowledged records are gone; bring it back, or forget the stream's progress and send it again"
    );
    ConnectorError::new(Kind::WentBack, text).with("missing", missing).with("object", later)
}
