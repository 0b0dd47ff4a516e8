// Posts a file with the JDK's own client, which offers h2c on every plain connection: java Post.java URL TYPE FILE TIMES
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

public class Post {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int time = 0; time < Integer.parseInt(given[3]); time++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .header("Content-Type", given[1])
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[2])))
                .build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
