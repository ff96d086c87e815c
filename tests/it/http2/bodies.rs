//! Bodies that are asked for, and bodies that may not be.

use super::h2c;
use super::support::*;
use crate::support::*;

/// A client that waits to be asked for its body is, and the backend is not told of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_waits_to_be_asked_for_a_body_is_asked() {
    let backend = TestBackend::saying("ok");
    let proxy = Setup::new(&[&backend]).start();
    let client = Client::connect(proxy.address).await;
    let post = request("POST", "/", &[("expect", "100-continue")]);
    let (mut answer, mut upload) = client.begin(post, false).await.unwrap();
    let asked = soon("a 100", std::future::poll_fn(|cx| answer.poll_informational(cx))).await;
    assert_eq!(asked.unwrap().unwrap().status(), 100);
    upload.send_data("body".into(), true).unwrap();
    assert_eq!(soon("a response", answer).await.unwrap().status(), 200);
    let seen = backend.only_request();
    assert_eq!((seen.field("expect"), seen.text().as_str()), (None, "body"));
}

/// A backend that sends bytes where there may be none: the client gets the head, and the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_204_has_no_body_whatever_the_backend_sends() {
    let backend = H2Backend::new(|mut turn| async move {
        let mut stream = turn.head(204, &[], false).unwrap();
        send_all(&mut stream, "bytes".into(), true).await;
    });
    let proxy = h2c(Setup::at(&[backend.address()])).start();
    let got = Client::connect(proxy.address).await.get("/").await;
    assert_eq!((got.status(), got.text().as_str(), got.field("content-length")), (204, "", None));
}
