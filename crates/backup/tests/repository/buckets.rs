//! Repositories in buckets of a real server.

use gantry_backup::{Repository, RepositoryError};
use gantry_types::{RepositoryPlace, S3Bucket, Secret};
use uuid::Uuid;

use crate::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};
use crate::support::{disk_of, read_back, write_backup};

fn place(server: &S3Server, prefix: &str) -> RepositoryPlace {
    RepositoryPlace::S3(S3Bucket {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        access_key_id: ACCESS_KEY_ID.to_owned(),
        secret_access_key: Some(Secret::new(SECRET_ACCESS_KEY)),
    })
}

#[tokio::test]
async fn backups_lie_in_a_bucket_as_in_a_directory() {
    let server = S3Server::start("127.0.0.1");
    let content = disk_of(20, 1);
    for (prefix, passphrase) in [("plain", None), ("sealed/here", Some("correct horse"))] {
        let (place, passphrase) = (place(&server, prefix), passphrase.map(Secret::new));
        let passphrase = passphrase.as_ref();
        let missing = Repository::open(&place, passphrase, false).await.map(drop).unwrap_err();
        assert!(matches!(missing, RepositoryError::NotARepository { .. }), "{missing}");
        let repository = Repository::open(&place, passphrase, true).await.unwrap();
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        write_backup(&repository, first, &content).await.unwrap();
        let again = Repository::open(&place, passphrase, true).await.unwrap();
        assert_eq!(again.id(), repository.id());
        assert_eq!(write_backup(&again, second, &content).await.unwrap().written_bytes, 0);
        assert_eq!(read_back(&again, first).await.unwrap(), content);
        assert!(again.verify(second, || ()).await.unwrap().lost.is_empty());
        again.delete(first).await.unwrap();
        assert_eq!(again.collect("a test").await.unwrap().removed_chunks, 0);
        assert_eq!(again.backups().await.unwrap(), [second]);
        again.delete(second).await.unwrap();
        assert!(again.collect("a test").await.unwrap().removed_chunks >= 20);
    }
    // What is in the way is somebody else's.
    let refused = Repository::open(&place(&server, ""), None, true).await.map(drop).unwrap_err();
    assert!(matches!(refused, RepositoryError::NotARepository { .. }), "{refused}");
}

#[tokio::test]
async fn of_those_who_make_a_repository_at_once_all_have_the_same() {
    let server = S3Server::start("127.0.0.1");
    let (place, passphrase) = (place(&server, "new"), Secret::new("correct horse"));
    let opened = futures::future::join_all((0..4).map(|_| Repository::open(&place, Some(&passphrase), true))).await;
    let repositories: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    let content = disk_of(3, 1);
    for repository in &repositories {
        assert_eq!(repository.id(), repositories[0].id());
        let backup = Uuid::new_v4();
        write_backup(repository, backup, &content).await.unwrap();
        assert_eq!(read_back(&repositories[0], backup).await.unwrap(), content);
    }
}
