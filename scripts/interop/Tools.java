import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's unmodified command-line tools one after another in a single JVM, because a JVM start costs more than
 * most of the checks. Each request on stdin is a line of fields parted by U+001F: the paths for the tool's stdin,
 * stdout and stderr, its main class, its arguments. The answer on stdout is the tool's exit status.
 *
 * <p>A tool that leaves through Kafka's Exit is unwound instead, and its shutdown hooks are run then: the console
 * producer flushes in one. The JVM ends when the process named by the first argument does.
 */
public final class Tools {
    private static final class Left extends Error {
        Left() {
            super(null, null, false, false);
        }
    }

    /** Scala's Console and slf4j keep the stream they first saw, so that stream must be one that can be redirected. */
    private static final class Redirectable extends OutputStream {
        private final AtomicReference<OutputStream> target = new AtomicReference<>(OutputStream.nullOutputStream());

        void to(OutputStream next) throws IOException {
            target.getAndSet(next).close();
        }

        @Override
        public void write(int b) throws IOException {
            target.get().write(b);
        }

        @Override
        public void write(byte[] b, int off, int len) throws IOException {
            target.get().write(b, off, len);
        }

        @Override
        public void flush() throws IOException {
            target.get().flush();
        }
    }

    public static void main(String[] args) throws Exception {
        endWith(Long.parseLong(args[0]));
        PrintStream answers = System.out;
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Redirectable out = new Redirectable();
        Redirectable err = new Redirectable();
        System.setOut(new PrintStream(out, false, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
        for (String line; (line = requests.readLine()) != null; ) {
            String[] f = line.split("\u001f", -1);
            try (InputStream in = new FileInputStream(f[0])) {
                out.to(new FileOutputStream(f[1], true));
                err.to(new FileOutputStream(f[2], true));
                System.setIn(in);
                int status = run(f[3], Arrays.copyOfRange(f, 4, f.length));
                System.out.flush();
                System.err.flush();
                out.to(OutputStream.nullOutputStream());
                err.to(OutputStream.nullOutputStream());
                answers.println(status);
            } catch (IOException e) {
                answers.println("125 " + e);
            }
            answers.flush();
        }
    }

    private static int run(String mainClass, String[] args) {
        AtomicReference<Integer> status = new AtomicReference<>();
        Exit.Procedure leave = (code, message) -> {
            status.compareAndSet(null, code);
            throw new Left();
        };
        Exit.setExitProcedure(leave);
        Exit.setHaltProcedure(leave);
        List<Runnable> hooks = new ArrayList<>();
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
        try {
            Class.forName(mainClass).getMethod("main", String[].class).invoke(null, (Object) args);
        } catch (InvocationTargetException e) {
            if (!(e.getCause() instanceof Left)) {
                e.getCause().printStackTrace();
                status.compareAndSet(null, 1);
            }
        } catch (ReflectiveOperationException e) {
            e.printStackTrace();
            status.compareAndSet(null, 127);
        }
        hooks.forEach(Runnable::run);
        return status.get() == null ? 0 : status.get();
    }

    private static void endWith(long pid) {
        Thread watch = new Thread(() -> {
            ProcessHandle.of(pid).ifPresent(p -> p.onExit().join());
            Runtime.getRuntime().halt(0);
        });
        watch.setDaemon(true);
        watch.start();
    }
}
