import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import { bytes } from '../model/figures';
import type { Change } from '../model/types';
import { chosenChanges, isChoosable, toggle, toggleAll } from './choice';

export interface ListProps {
  changes: readonly Change[];
  chosen: ReadonlySet<string>;
  /** The path of the change that is compared. */
  shown: string;
  /** Whether conflicts may be chosen. */
  force: boolean;
  /** What came of the last that was done, for people. */
  said: readonly string[];
  isBusy: boolean;
  choose: (chosen: ReadonlySet<string>) => void;
  setForce: (force: boolean) => void;
  show: (change: Change) => void;
  apply: () => void;
  trans: TranslationBundle;
}

/** The changes of a sandbox, what to do with them, and what came of it. */
export function ChangeList(props: ListProps): JSX.Element {
  const { changes, chosen, force, trans } = props;
  const ready = chosenChanges(changes, chosen, force);
  const possible = changes.filter(each => isChoosable(each, force)).length;
  return (
    <>
      <div className="hyper-Changes-head">
        <label>
          <input
            type="checkbox"
            disabled={!possible}
            checked={possible > 0 && ready.length === possible}
            ref={box => box && (box.indeterminate = ready.length > 0 && ready.length < possible)}
            onChange={() => props.choose(toggleAll(changes, chosen, force))}
          />
          {trans._n('%1 changed file', '%1 changed files', changes.length)}
        </label>
        <button
          className="jp-mod-styled jp-mod-accept"
          disabled={!ready.length || props.isBusy}
          onClick={props.apply}
        >
          {ready.length ? trans.__('Apply %1', ready.length) : trans.__('Apply')}
        </button>
      </div>
      {changes.some(each => each.conflict) && (
        <label className="hyper-Changes-force">
          <input type="checkbox" checked={force} onChange={event => props.setForce(event.target.checked)} />
          {trans.__('Overwrite files that have changed on the host, too')}
        </label>
      )}
      <div role="status" className="hyper-Changes-said">
        {props.said.map(text => (
          <p key={text}>{text}</p>
        ))}
      </div>
      <ul aria-label={trans.__('Changed files')}>
        {changes.map(change => (
          <Item key={change.path} change={change} list={props} />
        ))}
      </ul>
    </>
  );
}

function Item({ change, list }: { change: Change; list: ListProps }): JSX.Element {
  const { path, shown, kind, size } = change;
  const { trans } = list;
  const slash = shown.lastIndexOf('/') + 1;
  const isPossible = isChoosable(change, list.force);
  return (
    <li className={`hyper-Change hyper-mod-${kind} ${list.shown === path ? 'hyper-mod-shown' : ''}`}>
      <input
        type="checkbox"
        aria-label={trans.__('Choose %1', shown)}
        disabled={!isPossible}
        checked={isPossible && list.chosen.has(path)}
        onChange={() => list.choose(toggle(list.chosen, path))}
      />
      <button aria-current={list.shown === path} onClick={() => list.show(change)} title={shown}>
        <span className="hyper-Change-path">
          <span className="hyper-Change-name">
            {shown.slice(slash)}
            {change.is_folder && '/'}
          </span>
          <span className="hyper-Change-folder">{shown.slice(0, slash)}</span>
        </span>
        <span className="hyper-Change-kind">{kindWords(kind, trans)}</span>
        <span className="hyper-Change-size">{kind === 'deleted' || change.is_folder ? '' : bytes(size)}</span>
        {change.reason && <span className="hyper-Change-reason">{change.reason}</span>}
      </button>
    </li>
  );
}

function kindWords(kind: Change['kind'], trans: TranslationBundle): string {
  return { added: trans.__('added'), changed: trans.__('changed'), deleted: trans.__('deleted') }[kind];
}
