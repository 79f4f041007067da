//! Why: one connector serves every kind of object store; only how a bucket is opened differs. Never names a cloud.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    bucket::{Bucket, BucketSource},
    chain::{StreamTag, go_on},
    condition::{next_generation, survey},
    layout::{Layout, generation_key},
    options::units,
    partitioned::{PartitionedWriter, Paths},
    reader::find_end,
    staged::{self, StagedWriter},
    writer::{ChainWriter, Target},
};
use crate::connectors::{
    connector::{CommitMode, ConnectContext, Connector, Delivery, Epoch, FoundMark, Guarantee, Opened, Probe, SinkWriter, StreamId, Terms},
    credential::CredentialType,
    error::{ConnectorError, ConnectorErrorKind as Kind},
    options::{ConfigFault, Options},
};

/// A checked sink over the buckets of `source`, with the layout that the options ask for and credentials of these types; the faults of both at once.
pub(in crate::connectors) fn connector(
    source: Result<impl BucketSource + 'static, Vec<ConfigFault>>,
    options: &Options,
    credential_types: &'static [CredentialType],
) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
    match (source, Layout::parse(options)) {
        (Ok(source), Ok(layout)) => Ok(Arc::new(ObjectConnector { source: Arc::new(source), layout, credential_types })),
        (source, layout) => Err([source.err(), layout.err()].into_iter().flatten().flatten().collect()),
    }
}

#[derive(Debug)]
struct ObjectConnector {
    source: Arc<dyn BucketSource>,
    layout: Layout,
    credential_types: &'static [CredentialType],
}

impl ObjectConnector {
    async fn begin(&self, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Target, ConnectorError> {
        let bucket = self.source.bucket(cx).await?;
        let folder = self.layout.folder(stream, &cx.sink)?;
        let ground = survey(&bucket, &folder, &generation_key(&folder, StreamTag::of(stream, 0))).await?;
        Ok(Target {
            bucket,
            place: self.layout.place(&folder, StreamTag::of(stream, ground.generation)),
            kind_of_content: self.layout.kind_of_content(),
            format: self.layout.format,
            schema: terms.schema.clone(),
            epoch,
            honoured: ground.honoured,
            units: units(&self.layout.options, &terms.options),
        })
    }
}

#[async_trait]
impl Connector for ObjectConnector {
    fn accepts(&self, credential: CredentialType) -> bool {
        self.credential_types.contains(&credential)
    }

    async fn probe(&self, cx: &ConnectContext, write: bool) -> Probe {
        super::probe::probe(self.source.as_ref(), cx, "", write).await
    }

    async fn open(&self, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
        if self.layout.partitioned() && terms.commit_mode == CommitMode::OnFinish {
            let text = "path_template takes fields of records, and an ON_FINISH stream becomes one object: open the stream in CONTINUOUS mode, or take the fields out of the template";
            return Err(ConnectorError::new(Kind::Misconfigured, text));
        }
        let mut target = self.begin(cx, stream, epoch, terms).await?;
        let (writer, mark, delivery): (Box<dyn SinkWriter>, _, _) = match terms.commit_mode {
            CommitMode::Continuous => {
                let end = find_end(&target.bucket, &target.place, &terms.noted).await?;
                if let Some(link) = &end {
                    target.epoch = target.epoch.max(Epoch(link.epoch.saturating_add(1)));
                }
                let mark = end.map(|link| link.mark);
                let (at, begins) = go_on(mark, terms.noted.mark.next);
                let shared = Arc::new(target.clone());
                if self.layout.partitioned() {
                    let paths = Paths { template: self.layout.template.clone(), stream: stream.clone(), sink: cx.sink.clone() };
                    (Box::new(PartitionedWriter::new(shared, paths, at, begins)), mark, partitioned(&target))
                } else {
                    (Box::new(ChainWriter::new(shared, at, begins)), mark, continuous(&target))
                }
            }
            CommitMode::OnFinish => {
                let (mark, attempt) = staged::recover(&target).await?;
                let mut random = [0; 8];
                cx.ambient.ids.fill(&mut random);
                let shared = Arc::new(target.clone());
                (Box::new(StagedWriter::new(shared, attempt, u64::from_be_bytes(random))), mark, on_finish(&target))
            }
        };
        Ok(Opened {
            writer,
            epoch: target.epoch,
            mark: mark.map_or(FoundMark::Missing, FoundMark::At),
            delivery,
            takes: target.format.takes(),
            schema: None,
            units: target.units,
        })
    }

    async fn forget(&self, cx: &ConnectContext, stream: &StreamId) -> Result<(), ConnectorError> {
        let bucket: Bucket = self.source.bucket(cx).await?;
        let folder = self.layout.folder(stream, &cx.sink)?;
        next_generation(&bucket, &generation_key(&folder, StreamTag::of(stream, 0))).await
    }
}

fn continuous(target: &Target) -> Delivery {
    let exact = "objects appear whole, and each is created only if its name, the first offset in it, is free (seen to be honoured at this open); the last object's metadata is the mark";
    promise(target, exact)
}

fn partitioned(target: &Target) -> Delivery {
    let exact = "each manifest is created only if its name, the first offset of its unit, is free (seen to be honoured at this open), and after all the objects that it lists; the last \
                 manifest's metadata is the mark. Exactly once for who reads the objects that manifests name; who lists folders instead may also meet objects of a unit whose session broke \
                 before its manifest";
    promise(target, exact)
}

fn on_finish(target: &Target) -> Delivery {
    let exact = "one object appears whole when the stream is finished, created only if its name is free (seen to be honoured at this open); after a crash in between it is completed at the next open";
    promise(target, exact)
}

fn promise(target: &Target, exact: &str) -> Delivery {
    if target.honoured {
        return Delivery { guarantee: Guarantee::ExactlyOnce, basis: exact.to_owned() };
    }
    let basis = format!(
        "{} ignores the condition \"only if absent\" and overwrites (seen at this open), so two sessions of one stream could replace each other's objects; \
         names are stable, and a unit that is sent again replaces itself",
        target.bucket
    );
    Delivery { guarantee: Guarantee::Idempotent, basis }
}
