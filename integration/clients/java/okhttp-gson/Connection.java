import org.openapitools.client.ApiClient;

/** The client that uses OkHttp. */
final class Connection {
    static ApiClient open(String url) {
        ApiClient client = new ApiClient();
        client.setBasePath(url);
        client.setReadTimeout(60_000);
        client.setBearerToken("t0ken");
        return client;
    }
}
