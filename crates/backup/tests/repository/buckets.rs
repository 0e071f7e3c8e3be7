//! Repositories in buckets of a real server.

use gantry_backup::{Access, Bucket, Passphrase, Place, Repository, RepositoryError};
use uuid::Uuid;

use crate::s3_server::{ACCESS_KEY_ID, BUCKET, S3Server, SECRET_ACCESS_KEY};
use crate::support::{disk_of, read_back, write_backup};

fn access(server: &S3Server, prefix: &str, passphrase: Option<&str>) -> Access {
    let passphrase = passphrase.map(|passphrase| Passphrase(passphrase.to_owned()));
    let bucket = Bucket {
        bucket: BUCKET.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: Some(server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        access_key_id: ACCESS_KEY_ID.to_owned(),
        secret_access_key: SECRET_ACCESS_KEY.to_owned(),
    };
    Access { place: Place::Bucket(bucket), passphrase }
}

#[tokio::test]
async fn backups_lie_in_a_bucket_as_in_a_directory() {
    let server = S3Server::start("127.0.0.1");
    let content = disk_of(20, 1);
    for (prefix, passphrase) in [("plain", None), ("sealed/here", Some("correct horse"))] {
        let access = access(&server, prefix, passphrase);
        let missing = Repository::open(&access, false).await.map(drop).unwrap_err();
        assert!(matches!(missing, RepositoryError::NotARepository { .. }), "{missing}");
        let repository = Repository::open(&access, true).await.unwrap();
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        write_backup(&repository, first, &content).await.unwrap();
        let again = Repository::open(&access, true).await.unwrap();
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
    let whole = access(&server, "", None);
    let refused = Repository::open(&whole, true).await.map(drop).unwrap_err();
    assert!(matches!(refused, RepositoryError::NotARepository { .. }), "{refused}");
}

#[tokio::test]
async fn of_those_who_make_a_repository_at_once_all_have_the_same() {
    let server = S3Server::start("127.0.0.1");
    let access = access(&server, "new", Some("correct horse"));
    let opened = futures::future::join_all((0..4).map(|_| Repository::open(&access, true))).await;
    let repositories: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
    let content = disk_of(3, 1);
    for repository in &repositories {
        assert_eq!(repository.id(), repositories[0].id());
        let backup = Uuid::new_v4();
        write_backup(repository, backup, &content).await.unwrap();
        assert_eq!(read_back(&repositories[0], backup).await.unwrap(), content);
    }
}
