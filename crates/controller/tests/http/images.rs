//! Images over HTTP: content in from users, content out to hosts.

use gantry_api::{paths, rest::Changed};
use gantry_types::{Image, ImagePhase};
use reqwest::{Body, Method};
use serde_json::{Value, json};

use crate::datacenter::{Api, Datacenter, eventually, refused};

/// A disk of 1 MiB with a partition table's signature.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

async fn pending(api: &Api, name: &str) {
    let sent = json!({"metadata": {"name": name}, "spec": {"format": "raw"}});
    let made: Changed<Image> = api.send(Method::POST, "/v1/images", &sent).await.expect("made");
    assert_eq!((made.object.status.phase, made.operation), (ImagePhase::Pending, None));
}

fn content(api: &Api, name: &str, body: impl Into<Body>) -> reqwest::RequestBuilder {
    api.request(Method::PUT, &format!("/v1/images/{name}/content")).body(body)
}

async fn imported(api: &Api, name: &str) -> Image {
    eventually("the image is imported", async || {
        let image: Image = api.get(&format!("/v1/images/{name}")).await.expect("it");
        assert_ne!(image.status.phase, ImagePhase::Failed, "{:?}", image.status.reason);
        (image.status.phase == ImagePhase::Ready).then_some(image)
    })
    .await
}

fn uploads(datacenter: &Datacenter) -> Vec<String> {
    let entries = std::fs::read_dir(datacenter.app.config.uploads_dir()).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn content_comes_in_and_goes_out_to_hosts_only() {
    let mut datacenter = Datacenter::new().await;
    let member = datacenter.join("host-1").await;
    let api = datacenter.admin.clone();
    pending(&api, "tiny").await;
    // Sent in pieces, without a length, and larger than other bodies may be.
    let disk = [disk(), vec![7; 2 << 20]].concat();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = disk.chunks(100_000).map(|piece| Ok(piece.to_vec())).collect();
    let sent = content(&api, "tiny", Body::wrap_stream(futures::stream::iter(pieces)));
    let response = sent.send().await.expect("an answer");
    assert_eq!(response.status(), 202);
    let changed: Changed<Image> = response.json().await.expect("an image");
    assert!(changed.operation.is_some());
    let image = imported(&api, "tiny").await;
    assert_eq!(image.status.virtual_size.bytes(), disk.len() as u64);
    let digest = image.status.digest.expect("a digest");
    assert_eq!(uploads(&datacenter), Vec::<String>::new());

    let path = paths::agent_image(&digest);
    let fetched = member.api.request(Method::GET, &path).send().await.expect("an answer");
    assert_eq!(fetched.status(), 200);
    assert_eq!(fetched.content_length(), Some(image.status.file_size.bytes()));
    let fetched = fetched.bytes().await.expect("content");
    assert_eq!(&fetched[..4], b"QFI\xfb");
    assert_eq!(api.refused(Method::GET, &path, "").await.status, 401);
    for (asked, status) in [
        ("..%2F..%2Fca%2Fca.pem".to_owned(), 422),
        ("..%2F%2e%2e".to_owned(), 422),
        (format!("{}%2F", &digest[..63]), 422),
        ("0".repeat(64), 404),
    ] {
        let problem = member.api.refused(Method::GET, &paths::agent_image(&asked), "").await;
        assert_eq!(problem.status, status, "{asked}: {problem:?}");
    }
    // It has its content.
    let problem = refused(content(&api, "tiny", disk)).await;
    assert_eq!((problem.status, problem.code()), (409, "image-has-content"));
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_and_can_be_repeated() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    pending(api, "tiny").await;
    let (pieces, rest) = futures::channel::mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
    pieces.unbounded_send(Ok(disk())).expect("open");
    let sending = tokio::spawn(content(api, "tiny", Body::wrap_stream(rest)).send());
    eventually("the upload is under way", async || (!uploads(&datacenter).is_empty()).then_some(())).await;
    pieces.unbounded_send(Err(std::io::Error::other("the cable is out"))).expect("open");
    assert!(sending.await.expect("no panic").is_err());
    eventually("nothing is left", async || uploads(&datacenter).is_empty().then_some(())).await;
    let image: Image = api.get("/v1/images/tiny").await.expect("it");
    assert_eq!(image.status.phase, ImagePhase::Pending);
    assert_eq!(content(api, "tiny", disk()).send().await.expect("an answer").status(), 202);
    imported(api, "tiny").await;
}

#[tokio::test]
async fn content_that_is_too_large_is_refused_and_leaves_nothing() {
    let datacenter = Datacenter::with(|config| config.max_image_bytes = 1 << 20).await;
    let api = &datacenter.admin;
    pending(api, "tiny").await;
    let too_large = [disk(), vec![0]].concat();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        too_large.chunks(65_537).map(|piece| Ok(piece.to_vec())).collect();
    for sent in [Body::from(too_large.clone()), Body::wrap_stream(futures::stream::iter(pieces))] {
        let problem = refused(content(api, "tiny", sent)).await;
        assert_eq!((problem.status, problem.code()), (413, "image-too-large"));
        assert_eq!(uploads(&datacenter), Vec::<String>::new());
    }
    let absent = refused(content(api, "absent", disk())).await;
    assert_eq!(absent.status, 404);
    let _image: Value = api.get("/v1/images/tiny").await.expect("it waits on");
}

#[tokio::test]
async fn an_upload_in_pieces_goes_on_where_it_broke_off() {
    let datacenter = Datacenter::new().await;
    let api = &datacenter.admin;
    let image = json!({"metadata": {"name": "tiny"}, "spec": {"format": "raw"}});
    let _made: Value = api.send(Method::POST, "/v1/images", &image).await.expect("made");
    let mut content: Vec<u8> = (0..3 << 20).map(|number: u32| (number % 251) as u8).collect();
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    let content = content;
    let total = content.len();
    let piece = |first: usize, last: usize| {
        let range = format!("bytes {first}-{last}/{total}");
        let request = api.request(Method::PUT, "/v1/images/tiny/content").header("content-range", range);
        request.body(content[first..=last].to_vec())
    };
    let offset = async || -> usize {
        let state: Value = api.get("/v1/images/tiny/upload").await.expect("a state");
        state["offset"].as_u64().expect("a number") as usize
    };
    assert_eq!(offset().await, 0);
    let answer: Value = piece(0, 999_999).send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer, json!({"offset": 1_000_000}));
    assert_eq!(refused(piece(0, 10)).await.code(), "wrong-offset");
    // It says that it is longer than it is: what came counts.
    let range = format!("bytes 1000000-1999999/{total}");
    let short = api.request(Method::PUT, "/v1/images/tiny/content").header("content-range", range);
    assert_eq!(refused(short.body(content[1_000_000..1_500_000].to_vec())).await.code(), "invalid-range");
    assert_eq!(offset().await, 1_500_000);
    let digest = |of: &[u8]| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        use sha2::{Digest, Sha256};
        format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(of)))
    };
    let last = piece(1_500_000, total - 1).header("repr-digest", digest(b"something else"));
    assert_eq!(refused(last).await.code(), "checksum-mismatch");
    assert_eq!(offset().await, 0, "damaged content is thrown away");

    let _first: Value = piece(0, 1_999_999).send().await.expect("an answer").json().await.expect("JSON");
    let last = piece(2_000_000, total - 1).header("repr-digest", digest(&content));
    let changed: Value = last.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(changed["operation"]["spec"]["target"]["name"], "tiny");
    eventually("it is imported", async || {
        let image: Value = api.get("/v1/images/tiny").await.expect("it");
        assert_ne!(image["status"]["phase"], "failed", "{image}");
        (image["status"]["phase"] == "ready").then_some(())
    })
    .await;
    assert_eq!(refused(api.request(Method::GET, "/v1/images/tiny/upload")).await.code(), "image-has-content");
    for wrong in ["bytes 5-4/10", "bytes 0-9", "items 0-9/10"] {
        let _made: Value = api
            .send(Method::PUT, "/v1/images/other", &json!({"metadata": {"name": "other"}, "spec": {}}))
            .await
            .expect("made");
        let request = api.request(Method::PUT, "/v1/images/other/content").header("content-range", wrong);
        assert_eq!(refused(request.body("x")).await.code(), "invalid-range", "{wrong}");
    }
}
