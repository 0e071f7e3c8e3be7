//! Whatever disks are, and wherever whoever writes them dies.

use std::sync::Arc;
use std::time::Duration;

use gantry_backup::{CHUNK_BYTES, DiskReader, DiskWriter};
use object_store::memory::InMemory;
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

use crate::faults::DyingStore;
use crate::support::{SteppedClock, in_memory, read_back, write_backup};

const SMALL_CHUNKS: usize = 6;

/// A disk whose chunks are of few kinds, so that some are the same and some are zeros; it ends at any sector.
fn disk() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::collection::vec(0_u8..4, 1..SMALL_CHUNKS);
    (kinds, 1_usize..=CHUNK_BYTES / 512).prop_map(|(kinds, sectors)| {
        let mut content: Vec<u8> = kinds.iter().flat_map(|kind| vec![*kind; CHUNK_BYTES]).collect();
        content.truncate(content.len() - CHUNK_BYTES + sectors * 512);
        content
    })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_comes_out_is_what_went_in(content in disk(), offset in 0_usize..CHUNK_BYTES, length in 1_usize..CHUNK_BYTES) {
        run(async {
            let (repository, backup) = (in_memory().await, Uuid::new_v4());
            write_backup(&repository, backup, &content).await.unwrap();
            assert_eq!(read_back(&repository, backup).await.unwrap(), content);
            let manifest = repository.manifest(backup).await.unwrap();
            let mut reader = DiskReader::new(&repository, manifest.disk("disk").unwrap());
            let mut part = vec![0xee; length];
            reader.read_at(offset as u64, &mut part).await.unwrap();
            let expected = content.iter().copied().chain(std::iter::repeat(0)).skip(offset).take(length);
            assert!(part.into_iter().eq(expected));
        });
    }

    /// Only what changed is written again, whatever that is.
    #[test]
    fn a_backup_like_another_is_as_one_from_scratch(content in disk(), changes in prop::collection::btree_map(0_usize..8, any::<u8>(), 0..4)) {
        run(async {
            let (repository, first, second) = (in_memory().await, Uuid::new_v4(), Uuid::new_v4());
            write_backup(&repository, first, &content).await.unwrap();
            let mut content = content.clone();
            content.resize(8 * CHUNK_BYTES, 0);
            let earlier = repository.manifest(first).await.unwrap();
            let writer = repository.write(second, "a test").await.unwrap();
            let mut disk = DiskWriter::like(earlier.disk("disk").unwrap(), content.len() as u64).unwrap();
            for (place, byte) in &changes {
                let part = &mut content[place * CHUNK_BYTES..(place + 1) * CHUNK_BYTES];
                part.fill(*byte);
                let id = writer.keep(part.to_vec()).await.unwrap();
                writer.note(&mut disk, *place as u64, id).await.unwrap();
            }
            writer.finish(|_, _| Value::Null, vec![disk]).await.unwrap();
            assert_eq!(read_back(&repository, second).await.unwrap(), content);
        });
    }

    /// Written, deleted and collected by somebody who dies after any change: all that is listed can be restored, and what
    /// was begun succeeds when it is done again.
    #[test]
    fn whoever_dies_leaves_a_repository_that_verifies(first in disk(), second in disk(), changes in 0_i64..30) {
        run(async {
            let (store, clock) = (Arc::new(InMemory::new()), SteppedClock::default());
            let sound = crate::support::open(store.clone(), clock.clock()).await.unwrap();
            let ids = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
            write_backup(&sound, ids[0], &first).await.unwrap();
            write_backup(&sound, ids[1], &second).await.unwrap();
            let dying = Arc::new(DyingStore::after(&store, changes));
            let work = async {
                let repository = crate::support::open(dying, clock.clock()).await?;
                write_backup(&repository, ids[2], &second).await?;
                repository.delete(ids[1]).await?;
                repository.collect("a test").await
            };
            let died = work.await.is_err();
            let listed = sound.backups().await.unwrap();
            assert!(listed.contains(&ids[0]) && (died || !listed.contains(&ids[1])));
            for backup in &listed {
                assert!(sound.verify(*backup, || {}).await.unwrap().lost.is_empty());
                let expected = if *backup == ids[0] { &first } else { &second };
                assert_eq!(&read_back(&sound, *backup).await.unwrap(), expected);
            }
            // Whose lock the dead one has left, it runs out.
            clock.advance(Duration::from_secs(600));
            write_backup(&sound, ids[2], &second).await.unwrap();
            sound.delete(ids[1]).await.unwrap();
            sound.collect("a test").await.unwrap();
            assert_eq!(read_back(&sound, ids[0]).await.unwrap(), first);
            assert_eq!(read_back(&sound, ids[2]).await.unwrap(), second);
        });
    }

    /// Nothing that is in a repository makes its reader panic, take much memory, or believe what is not so.
    #[test]
    fn a_hostile_object_is_refused(content in disk(), which in any::<prop::sample::Index>(), garbage in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>()) {
        run(async {
            use futures::TryStreamExt;
            use object_store::{ObjectStore, ObjectStoreExt};
            let store = Arc::new(InMemory::new());
            let repository = crate::support::open(store.clone(), SteppedClock::default().clock()).await.unwrap();
            let backup = Uuid::new_v4();
            write_backup(&repository, backup, &content).await.unwrap();
            let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
            let object = &objects[which.index(objects.len())].location;
            let mut bytes = store.get(object).await.unwrap().bytes().await.unwrap().to_vec();
            let begin = at.index(bytes.len());
            bytes.splice(begin.., garbage);
            store.put(object, bytes.into()).await.unwrap();
            let again = crate::support::open(store.clone(), SteppedClock::default().clock()).await;
            let Ok(again) = again else { return };
            match again.verify(backup, || {}).await {
                Ok(verification) if verification.lost.is_empty() => {
                    assert_eq!(read_back(&again, backup).await.unwrap(), content);
                }
                Ok(_) => assert!(read_back(&again, backup).await.is_err()),
                Err(_) => {}
            }
        });
    }
}
