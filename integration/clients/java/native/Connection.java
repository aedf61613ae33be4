import org.openapitools.client.ApiClient;

/** The client that uses java.net.http. It has no setting for a token, so an interceptor adds it. */
final class Connection {
    static ApiClient open(String url) {
        ApiClient client = new ApiClient();
        client.updateBaseUri(url);
        client.setRequestInterceptor(request -> request.header("Authorization", "Bearer t0ken"));
        return client;
    }
}
