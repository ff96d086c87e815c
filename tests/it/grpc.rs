//! gRPC calls with tonic's client and server, through the balancer: a status in the trailers, or in a head alone.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, StreamExt};
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::server::{ServerStreamingService, StreamingService, UnaryService};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::http2::h2c;
use crate::http2::support::soon;
use crate::support::*;

/// A message, as a `.proto` would have it.
#[derive(Clone, PartialEq, prost::Message)]
struct Words {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint32, tag = "2")]
    count: u32,
}

fn words(text: impl Into<String>, count: u32) -> Words {
    Words { text: text.into(), count }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// The service: `Once` and `Many` answer, `Talk` answers each message before the next is sent.
#[derive(Clone)]
struct Talk;

impl tonic::server::NamedService for Talk {
    const NAME: &'static str = "test.Talk";
}

struct Once;
struct Many;
struct Each;

impl UnaryService<Words> for Once {
    type Response = Words;
    type Future = Answer<Words>;

    fn call(&mut self, request: Request<Words>) -> Self::Future {
        Box::pin(async move {
            let asked = request.get_ref();
            if asked.text == "refuse" {
                let mut status = Status::resource_exhausted("too many words");
                status.metadata_mut().insert("x-detail", "7".parse().unwrap());
                return Err(status);
            }
            let mut answer = Response::new(words(asked.text.repeat(asked.count as usize), asked.count));
            if let Some(value) = request.metadata().get("x-asked") {
                answer.metadata_mut().insert("x-answered", value.clone());
            }
            Ok(answer)
        })
    }
}

impl ServerStreamingService<Words> for Many {
    type Response = Words;
    type ResponseStream = BoxStream<'static, Result<Words, Status>>;
    type Future = Answer<Self::ResponseStream>;

    fn call(&mut self, request: Request<Words>) -> Self::Future {
        let Words { text, count } = request.into_inner();
        Box::pin(async move {
            let fails = text == "fail";
            let said = (0..count).map(move |number| Ok(words(text.clone(), number)));
            let end = fails.then(|| Err(Status::aborted("midway")));
            Ok(Response::new(stream::iter(said.chain(end)).boxed()))
        })
    }
}

impl StreamingService<Words> for Each {
    type Response = Words;
    type ResponseStream = BoxStream<'static, Result<Words, Status>>;
    type Future = Answer<Self::ResponseStream>;

    fn call(&mut self, request: Request<Streaming<Words>>) -> Self::Future {
        let answers = request.into_inner().map(|asked| asked.map(|asked| words(asked.text + "!", asked.count)));
        Box::pin(async move { Ok(Response::new(answers.boxed())) })
    }
}

impl tower::Service<http::Request<Body>> for Talk {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Words, Words>::default());
            Ok(match request.uri().path() {
                "/test.Talk/Once" => grpc.unary(Once, request).await,
                "/test.Talk/Many" => grpc.server_streaming(Many, request).await,
                "/test.Talk/Each" => grpc.streaming(Each, request).await,
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

/// A server on a thread of its own.
struct Backend {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Backend {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = tonic::transport::server::TcpIncoming::from(listener);
                let serve = Server::builder().add_service(Talk).serve_with_incoming(incoming);
                tokio::select! {
                    _ = stopped => {}
                    served = serve => served.unwrap(),
                }
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

async fn client(proxy: &TestProxy) -> tonic::client::Grpc<Channel> {
    let channel = Channel::from_shared(format!("http://{}", proxy.address)).unwrap();
    let mut grpc = tonic::client::Grpc::new(soon("a channel", channel.connect()).await.unwrap());
    grpc.ready().await.unwrap();
    grpc
}

const ONCE: PathAndQuery = PathAndQuery::from_static("/test.Talk/Once");
const MANY: PathAndQuery = PathAndQuery::from_static("/test.Talk/Many");
const EACH: PathAndQuery = PathAndQuery::from_static("/test.Talk/Each");

fn codec() -> ProstCodec<Words, Words> {
    ProstCodec::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unary_calls_pass() {
    let backend = Backend::start();
    let proxy = h2c(Setup::at(&[backend.address])).start();
    let mut grpc = client(&proxy).await;
    for count in [0, 1, 100_000] {
        let mut request = Request::new(words("twelve bytes", count));
        request.metadata_mut().insert("x-asked", "why".parse().unwrap());
        let answer = soon("an answer", grpc.unary(request, ONCE, codec())).await.unwrap();
        assert_eq!(answer.metadata().get("x-answered").unwrap(), "why");
        assert_eq!(answer.into_inner(), words("twelve bytes".repeat(count as usize), count));
        grpc.ready().await.unwrap();
    }
}

/// Errors: in a head alone, with their metadata; and for a call that the server does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn errors_keep_their_status() {
    let backend = Backend::start();
    let proxy = h2c(Setup::at(&[backend.address])).start();
    let mut grpc = client(&proxy).await;
    let refused = soon("an answer", grpc.unary(Request::new(words("refuse", 1)), ONCE, codec())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "too many words"));
    assert_eq!(refused.metadata().get("x-detail").unwrap(), "7");
    grpc.ready().await.unwrap();
    let none = PathAndQuery::from_static("/test.Talk/None");
    let unknown = soon("an answer", grpc.unary(Request::new(words("", 1)), none, codec())).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
}

/// A stream of answers, and its status at the end: good, or an error midway.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn server_streams_pass() {
    let backend = Backend::start();
    let proxy = h2c(Setup::at(&[backend.address])).start();
    let mut grpc = client(&proxy).await;
    for (text, end) in [("fine", None), ("fail", Some(Code::Aborted))] {
        grpc.ready().await.unwrap();
        let asked = Request::new(words(text, 500));
        let mut answers = soon("answers", grpc.server_streaming(asked, MANY, codec())).await.unwrap().into_inner();
        for number in 0..500 {
            assert_eq!(soon("an answer", answers.message()).await.unwrap(), Some(words(text, number)));
        }
        let last = soon("the end", answers.message()).await;
        match end {
            None => assert_eq!(last.unwrap(), None),
            Some(code) => {
                let status = last.unwrap_err();
                assert_eq!((status.code(), status.message()), (code, "midway"));
            }
        }
    }
}

/// Both ways at once: each answer comes before the next question is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_stream_both_ways() {
    let backend = Backend::start();
    let proxy = h2c(Setup::at(&[backend.address])).start();
    let mut grpc = client(&proxy).await;
    let (ask, asked) = tokio::sync::mpsc::unbounded_channel();
    let asked = stream::unfold(asked, |mut asked| async move { Some((asked.recv().await?, asked)) });
    ask.send(words("0", 0)).unwrap();
    let mut answers = soon("answers", grpc.streaming(Request::new(asked), EACH, codec())).await.unwrap().into_inner();
    for number in 0..50 {
        let answer = soon("an answer", answers.message()).await.unwrap();
        assert_eq!(answer, Some(words(format!("{number}!"), number)));
        ask.send(words((number + 1).to_string(), number + 1)).unwrap();
    }
    proxy.comes_to("evenkeel_in_flight", &[], 1.0);
    drop(ask);
    assert_eq!(soon("the last answer", answers.message()).await.unwrap(), Some(words("50!", 50)));
    assert_eq!(soon("the end", answers.message()).await.unwrap(), None);
}

/// A server that cannot be reached: gRPC's clients take our 502 for `Unavailable`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_missing_server_is_unavailable() {
    let proxy = h2c(Setup::at(&[refusing_address()])).start();
    let mut grpc = client(&proxy).await;
    let status = soon("an answer", grpc.unary(Request::new(words("", 1)), ONCE, codec())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
