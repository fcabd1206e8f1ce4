import type { About } from "../answers";
import { useAnswer } from "../api";
import { Fact, Facts, Loading, useTitle } from "../parts/basics";

export function AboutPage() {
  useTitle("About");
  const answer = useAnswer<About>("api/about");
  if (!answer.data) return <Loading error={answer.error} />;
  const about = answer.data;
  return (
    <>
      <h1>About this store</h1>
      <Facts>
        <Fact name="penstock">{about.version}</Fact>
        <Fact name="Store">
          {about.store}, version {about.store_schema}
        </Fact>
        <Fact name="In">
          <code>{about.home}</code>
        </Fact>
        <Fact name="Actions">
          {about.actions ? "allowed" : "not allowed; start with --allow-actions to cancel, retry and resume here"}
        </Fact>
      </Facts>
      <h2>Settings</h2>
      <Settings about={about} />
      <p class="help">This page asks nobody but the server that showed it to you. Press ? for the keys.</p>
    </>
  );
}

// What somebody has set comes first.
function Settings({ about }: { about: About }) {
  const { name, value, source } = about.settings.columns;
  const isDefault = (row: number) => Number(source[row] === "default");
  const order = name.map((_, row) => row).sort((one, other) => isDefault(one) - isDefault(other));
  return (
    <table class="values" aria-label="Settings">
      <thead>
        <tr>
          <th scope="col">Name</th>
          <th scope="col">Value</th>
          <th scope="col">From</th>
        </tr>
      </thead>
      <tbody>
        {order.map((row) => (
          <tr key={name[row]}>
            <th scope="row">{name[row]}</th>
            <td>
              <code>{value[row]}</code>
            </td>
            <td>{source[row]}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
