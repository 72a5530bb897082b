import type { IEditorLanguageRegistry } from '@jupyterlab/codemirror';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { SplitPanel } from '@lumino/widgets';
import React from 'react';
import { type Api, words } from '../model/api';
import type { Applied, Change } from '../model/types';
import { chosenChanges } from './choice';
import { CompareView } from './compare';
import { ChangeList } from './list';

/** What a sandbox changed in its copy of the notebook's folder: look, choose, take over. */
export class Review extends SplitPanel {
  constructor(
    private readonly _api: Api,
    private readonly _sandbox: string,
    private readonly _trans: TranslationBundle,
    languages: IEditorLanguageRegistry | null
  ) {
    super({ orientation: 'horizontal', spacing: 1 });
    this.addClass('hyper-Review');
    this._compare = new CompareView(languages, _trans);
    this._list = new ListView(() => this._render());
    this.addWidget(this._list);
    this.addWidget(this._compare);
    this.setRelativeSizes([1, 2]);
    void this.refresh();
  }

  /** Ask for the changes anew. */
  async refresh(): Promise<void> {
    await this._try(async () => {
      this._changes = await this._api.changes(this._sandbox);
      if (!this._changes.some(each => each.path === this._shown)) {
        this._shown = '';
        this._compare.say(
          this._changes.length
            ? this._trans.__('Choose a file to see what was changed in it.')
            : this._trans.__('The sandbox has changed no file of the notebook’s folder.')
        );
      }
    });
  }

  private async _show({ path, is_folder }: Change): Promise<void> {
    this._shown = path;
    this._list.update();
    if (is_folder) {
      this._compare.say(this._trans.__('A folder. Choosing it takes over all below it that is not hidden.'));
      return;
    }
    try {
      const comparison = await this._api.comparison(this._sandbox, path);
      if (this._shown === path) {
        await this._compare.compare(comparison, () => this._shown === path);
      }
    } catch (error) {
      this._compare.say(words(error));
    }
  }

  private async _apply(): Promise<void> {
    await this._try(async () => {
      const chosen = chosenChanges(this._changes, this._chosen, this._force);
      // SECURITY: what is taken over is what was looked at; the sandbox may have written to it since.
      const paths = Object.fromEntries(chosen.map(({ path, digest }) => [path, digest]));
      const done = await this._api.apply(this._sandbox, paths, this._force);
      this._chosen = new Set();
      this._force = false;
      this._said = this._applied(done);
      this._changes = await this._api.changes(this._sandbox);
    });
  }

  private _applied({ applied, refused }: Applied): string[] {
    const trans = this._trans;
    const taken = applied.length
      ? [trans._n('%1 file taken over.', '%1 files taken over.', applied.length)]
      : [];
    return [
      ...taken,
      ...refused.map(({ path, reason }) => trans.__('Not taken over: %1 (%2).', this._name(path), reason))
    ];
  }

  private _name(path: string): string {
    return this._changes.find(each => each.path === path)?.shown ?? JSON.stringify(path);
  }

  private async _try(work: () => Promise<void>): Promise<void> {
    this._isBusy = true;
    this._said = [];
    this._list.update();
    try {
      await work();
    } catch (error) {
      this._said = [words(error)];
    }
    this._isBusy = false;
    this._list.update();
  }

  private _render(): JSX.Element {
    return (
      <ChangeList
        changes={this._changes}
        chosen={this._chosen}
        shown={this._shown}
        force={this._force}
        said={this._said}
        isBusy={this._isBusy}
        choose={chosen => this._set({ _chosen: chosen })}
        setForce={force => this._set({ _force: force })}
        show={change => void this._show(change)}
        apply={() => void this._apply()}
        trans={this._trans}
      />
    );
  }

  private _set(values: { _chosen: ReadonlySet<string> } | { _force: boolean }): void {
    Object.assign(this, values);
    this._list.update();
  }

  private readonly _list: ListView;
  private readonly _compare: CompareView;
  private _changes: readonly Change[] = [];
  private _chosen: ReadonlySet<string> = new Set();
  private _shown = '';
  private _force = false;
  private _said: readonly string[] = [];
  private _isBusy = false;
}

class ListView extends ReactWidget {
  constructor(private readonly _content: () => JSX.Element) {
    super();
    this.addClass('hyper-Changes');
  }

  protected override render(): JSX.Element {
    return this._content();
  }
}
